"""HTTP resources of the 2Z rule: the statement and releases."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request, Response, status
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.two_z import usecases
from engagement.two_z.domain import DEADLINE_RULE, DEFINITION_VERSION, ReleaseReason
from revisit_chassis.audit import record_audit
from revisit_chassis.http import ChassisDep, ClinicConnection, ClinicId, Now, require
from revisit_chassis.idempotency import IdempotencyKey, once
from revisit_chassis.identifiers import canonical_id
from revisit_chassis.pages import Cursor, Limit, Page, encode_cursor, position_of
from revisit_chassis.tokens import Principal
from revisit_events.contracts.fields import NO_NUL

router = APIRouter(tags=["2Z"])
Reader = Annotated[Principal, Depends(require("two-z:read"))]
Releaser = Annotated[Principal, Depends(require("releases:write"))]
PatientId = Annotated[
    str, Path(min_length=1, max_length=64, description="UUID or the clinic's own identifier")
]


class DeadlineView(BaseModel):
    """From when on a visit counts."""

    rule: str = DEADLINE_RULE
    time_zone: str | None = Field(description="The clinic's; null while it is not registered")


class StatementView(BaseModel):
    """Every patient in scope once: first match of released, booked, task open, violation."""

    in_scope: int
    booked: int
    task_open: int
    released: int
    violations: int
    as_of: datetime
    definition_version: str = DEFINITION_VERSION
    deadline: DeadlineView
    violating_patients: Page[UUID]


class ReleaseRequest(BaseModel):
    """Why no further contact is owed."""

    model_config = ConfigDict(extra="forbid")

    reason: ReleaseReason
    approved_by: Annotated[str, Field(min_length=1, max_length=100, pattern=NO_NUL)] | None = Field(
        None, description="Who approved it; the caller when left out"
    )


class ReleaseView(BaseModel):
    """A release as it was recorded."""

    release_id: UUID
    patient_id: UUID
    reason: ReleaseReason
    approved_by: str
    released_at: datetime


@router.get("/v1/two-z")
async def get_two_z_statement(
    *,
    connection: ClinicConnection,
    clinic_id: ClinicId,
    _: Reader,
    now: Now,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> StatementView:
    """The 2Z statement, computed from the facts as they stand now."""
    found = await usecases.two_z_statement(
        connection,
        clinic_id,
        now,
        after=_position(cursor) if cursor else None,
        limit=limit + 1,
    )
    listed = list(found.violating[:limit])
    return StatementView(
        in_scope=found.counts.in_scope,
        booked=found.counts.booked,
        task_open=found.counts.task_open,
        released=found.counts.released,
        violations=found.counts.violations,
        as_of=found.as_of,
        deadline=DeadlineView(time_zone=found.time_zone),
        violating_patients=Page(
            items=listed,
            next=encode_cursor((listed[-1],)) if len(found.violating) > limit else None,
        ),
    )


@router.post("/v1/patients/{patient_id}/releases", status_code=201, response_model=ReleaseView)
async def release_patient(
    *,
    request: Request,
    state: ChassisDep,
    clinic_id: ClinicId,
    caller: Releaser,
    now: Now,
    patient_id: PatientId,
    body: ReleaseRequest,
    key: IdempotencyKey = None,
) -> Response:
    """Records a release: open tasks are closed and scheduled messages end.

    It covers the visits completed until now; one completed later starts a new obligation.
    """
    patient = canonical_id(clinic_id, "patient", patient_id)
    approved_by = body.approved_by or caller.sub

    async def record(connection: AsyncConnection) -> Response:
        release_id = await usecases.release_patient(
            connection,
            clinic_id,
            patient,
            usecases.Release(body.reason, approved_by, caller.sub),
            now,
        )
        await record_audit(
            connection,
            clinic_id=clinic_id,
            actor=caller.sub,
            action="patient.release",
            record=f"patient:{patient}",
            at=now,
            correlation_id=request.scope.get("correlation_id"),
        )
        view = ReleaseView(
            release_id=release_id,
            patient_id=patient,
            reason=body.reason,
            approved_by=approved_by,
            released_at=now,
        )
        return JSONResponse(view.model_dump(mode="json"), status.HTTP_201_CREATED)

    return await once(request, state.database, clinic_id, key, record)


_POSITION = TypeAdapter(UUID)


def _position(cursor: str) -> UUID:
    return position_of(cursor, 1, _POSITION)
