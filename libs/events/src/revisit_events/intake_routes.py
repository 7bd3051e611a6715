"""Routes of the intake: events in, refused events listed and tried again.

`POST /v1/events` is the platform's busiest route. It takes the body as bytes and needs none of
FastAPI's dependencies, so it is called past its routing and is a FastAPI route for its
documentation only.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.routing import request_response

from revisit_chassis.http import (
    ClinicConnection,
    ClinicId,
    ServiceApp,
    body_of,
    clinic_of,
    principal_of,
    require,
)
from revisit_chassis.pages import Cursor, Limit, Page, encode_cursor, position_of
from revisit_chassis.problem import FieldError, Problem
from revisit_events import rejected
from revisit_events.contracts.fields import Time
from revisit_events.http import BATCH, STRUCTURED, RawRequest, raw_events
from revisit_events.intake import Intake, Outcome
from revisit_events.refusal import Refusal, RefusedError

_may_write = require("events:write")
_may_read_rejected = Depends(require("rejected-events:read"))
_may_replay = Depends(require("rejected-events:write"))
_POSITION = TypeAdapter(tuple[Time, UUID])


class Taken(BaseModel):
    """What became of one event."""

    id: str
    status: str


class RejectedOne(BaseModel):
    """An event of a batch that was not taken."""

    index: int
    id: str | None
    problem: dict[str, Any]


class BatchTaken(BaseModel):
    """What became of a batch."""

    accepted: int
    duplicate: int
    rejected: list[RejectedOne]


class RejectedEventItem(BaseModel):
    """A refused event: all but its body."""

    id: UUID
    received_at: datetime
    times: int
    event_id: str | None
    source: str | None
    event_type: str | None
    problem: dict[str, Any]
    replayed_at: datetime | None


def mount_intake(app: ServiceApp, path: str = "/v1/events") -> None:
    """Adds the intake's routes; the service's lifespan sets `app.state.intake`.

    Args:
        app: The service's app.
        path: Where events are posted to.
    """
    app.direct["POST", path] = post_events
    app.router.routes.append(_EventsRoute(path, post_events, **_documentation()))
    app.include_router(_rejected_routes())


async def post_events(request: Request) -> Response:
    """Takes CloudEvents in structured, batch or binary mode; answers after they are stored.

    Ids of patients, appointments, visits, practitioners and reviews may be the clinic's own. One
    bad event never blocks the others of its batch.
    """
    principal = await _may_write(request)
    clinic_id = clinic_of(principal)
    try:
        raw = raw_events(await body_of(request), request.headers)
        outcome = await _intake(request).take(raw, clinic_id, principal.scopes)
        return _answer(raw, outcome)
    except RefusedError as fault:
        raise _problem(fault.refusal) from None
    except ClientDisconnect:
        return Response(status_code=400)


class _EventsRoute(APIRoute):
    """A route that hands the request to its endpoint as it is."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = request_response(endpoint)


def _intake(request: Request) -> Intake:
    intake: Intake = request.app.state.intake
    return intake


def _answer(raw: RawRequest, outcome: Outcome) -> Response:
    if raw.is_batch:
        content: dict[str, Any] = {
            "accepted": len(outcome.accepted),
            "duplicate": len(outcome.duplicate),
            "rejected": [
                {"index": r.index, "id": r.id, "problem": r.refusal.as_json()}
                for r in outcome.refused
            ],
        }
    else:
        for refused in outcome.refused:
            raise RefusedError(refused.refusal)
        status = "accepted" if outcome.accepted else "duplicate"
        content = {"id": raw.events[0]["id"], "status": status}
    return Response(to_json(content), status_code=202, media_type="application/json")


def _problem(refusal: Refusal) -> Problem:
    return Problem(
        refusal.status,
        refusal.slug,
        refusal.detail,
        errors=[FieldError(pointer, detail) for pointer, detail in refusal.errors],
        title=refusal.title,
    )


def _rejected_routes() -> APIRouter:
    router = APIRouter(prefix="/v1/rejected-events", tags=["events"])

    @router.get("", dependencies=[_may_read_rejected])
    async def list_rejected_events(
        connection: ClinicConnection,
        clinic_id: ClinicId,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Page[RejectedEventItem]:
        """Refused events of the clinic, the newest first, without their bodies."""
        before = None if cursor is None else position_of(cursor, 2, _POSITION)
        found = await rejected.rejected_events(connection, clinic_id, before=before, limit=limit)
        items = [RejectedEventItem.model_validate(e, from_attributes=True) for e in found]
        last = found[-1] if len(found) == limit else None
        following = encode_cursor((last.received_at.isoformat(), last.id)) if last else None
        return Page(items=items, next=following)

    @router.post("/{rejected_event_id}/replays", status_code=202, dependencies=[_may_replay])
    async def replay_rejected_event(
        rejected_event_id: UUID, request: Request, clinic_id: ClinicId
    ) -> Taken:
        """Tries a refused event again, as it came, after what refused it was mended."""
        scopes = (await principal_of(request)).scopes
        return await _replay(_intake(request), clinic_id, rejected_event_id, scopes)

    return router


async def _replay(
    intake: Intake, clinic_id: UUID, rejected_event_id: UUID, scopes: Collection[str]
) -> Taken:
    async with intake.database.transaction((clinic_id,)) as connection:
        raw = await rejected.body_of(connection, clinic_id, rejected_event_id, intake.keyring)
    if raw is None:
        raise Problem(404, "not-found", "There is no such rejected event.")
    request = RawRequest(is_batch=False, events=[raw], is_large=False)
    outcome = await intake.take(request, clinic_id, scopes)
    for refused in outcome.refused:
        raise _problem(refused.refusal)
    async with intake.database.transaction((clinic_id,)) as connection:
        await rejected.mark_replayed(connection, clinic_id, rejected_event_id, datetime.now(UTC))
    return Taken(id=raw["id"], status="accepted" if outcome.accepted else "duplicate")


def _documentation() -> dict[str, Any]:
    event = {
        "type": "object",
        "required": ["specversion", "id", "source", "type", "time", "data"],
        "properties": dict(_attribute_schemas()) | {"data": {"type": "object"}},
    }
    return {
        "methods": ["POST"],
        "name": "post_events",
        "operation_id": "post_events",
        "status_code": 202,
        "tags": ["events"],
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    STRUCTURED: {"schema": event},
                    BATCH: {"schema": {"type": "array", "items": event, "maxItems": 1000}},
                    "application/json": {
                        "schema": {"type": "object", "description": "Binary mode: the data."}
                    },
                },
            }
        },
        "responses": {202: {"description": "Stored", "model": Taken | BatchTaken}},
    }


def _attribute_schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "specversion", {"const": "1.0"}
    for name in ("id", "source", "type"):
        yield name, {"type": "string", "minLength": 1, "maxLength": 256}
    yield "time", {"type": "string", "format": "date-time"}
    yield "clinicid", {"type": "string", "format": "uuid"}
