"""Messages over HTTP: what was sent or withheld and why, receipts of providers, the timeline."""

import hashlib
import hmac
import json
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, TypeAdapter, ValidationError

from engagement.messages import queries, receipts
from revisit_chassis.http import ChassisDep, ClinicConnection, ClinicId, Now, require
from revisit_chassis.identifiers import canonical_id
from revisit_chassis.pages import Cursor, Limit, Page, encode_cursor, position_of
from revisit_chassis.problem import Problem, validation_problem
from revisit_events.contracts.fields import NO_NUL, Time

router = APIRouter(tags=["messages"])
Identifier = Annotated[str, Path(min_length=1, max_length=64, pattern=NO_NUL)]
State = Literal["scheduled", "sending", "sent", "uncertain", "dropped"]
LARGEST_RECEIPT = 64 * 1024


class Message(BaseModel):
    """A message, without its text: that is written when it leaves and kept nowhere."""

    message_id: UUID
    patient_id: UUID
    journey: str
    step: str
    subject_id: UUID
    legal_class: str
    status: State
    reason: str | None
    channel: str | None
    due_at: datetime
    expires_at: datetime
    sent_at: datetime | None
    delivery: str | None


class DecisionAnswer(BaseModel):
    """Why a message left or did not: every check with its result."""

    message_id: UUID
    status: State
    decided_at: datetime | None
    decision: dict[str, Any] | None


class TimelineEntry(BaseModel):
    """Something that happened between clinic and patient."""

    at: datetime
    kind: str
    id: UUID
    detail: str


class Receipt(BaseModel):
    """What a provider reports of a message.

    Args:
        id: The message's, as the gateway got it.
        status: `delivered`, `failed` or `rejected`; `accepted`, `queued` and `sent` are taken and
            change nothing.
    """

    id: UUID
    status: Literal["accepted", "queued", "sent", "delivered", "failed", "rejected"]


@router.get("/v1/messages", dependencies=[Depends(require("messages:read"))])
async def list_messages(
    connection: ClinicConnection,
    clinic_id: ClinicId,
    patient_id: Annotated[str | None, Query(min_length=1, max_length=64, pattern=NO_NUL)] = None,
    journey: Annotated[str | None, Query(max_length=64, pattern=NO_NUL)] = None,
    status: State | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[Message]:
    """Gives messages in order of their due time, page by page."""
    patient = None if patient_id is None else canonical_id(clinic_id, "patient", patient_id)
    rows = await queries.messages(
        connection,
        clinic_id,
        patient_id=patient,
        journey=journey,
        state=status,
        after=_position(cursor),
        limit=limit + 1,
    )
    following = None
    if len(rows) > limit:
        last = rows[limit - 1]
        following = encode_cursor([last.due_at.isoformat(), last.message_id])
    return Page(items=[_message(row) for row in rows[:limit]], next=following)


@router.get("/v1/messages/{message_id}/decision", dependencies=[Depends(require("messages:read"))])
async def read_decision(
    message_id: UUID, connection: ClinicConnection, clinic_id: ClinicId
) -> DecisionAnswer:
    """Gives the chain of checks behind a message that was sent, withheld or put off."""
    row = await queries.message(connection, clinic_id, message_id)
    if row is None:
        raise Problem(404, "not-found", "There is no such message.")
    decision = json.loads(row.decision) if isinstance(row.decision, str) else row.decision
    return DecisionAnswer(
        message_id=row.message_id, status=row.state, decided_at=row.decided_at, decision=decision
    )


@router.get("/v1/patients/{patient_id}/timeline", dependencies=[Depends(require("patients:read"))])
async def read_timeline(
    patient_id: Identifier,
    connection: ClinicConnection,
    clinic_id: ClinicId,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[TimelineEntry]:
    """Gives visits, appointments, messages and tasks of a patient, the newest first."""
    patient = canonical_id(clinic_id, "patient", patient_id)
    rows = await queries.timeline(connection, clinic_id, patient, _position(cursor), limit + 1)
    following = None
    if len(rows) > limit:
        following = encode_cursor([rows[limit - 1].at.isoformat(), rows[limit - 1].id])
    items = [
        TimelineEntry(at=row.at, kind=row.kind, id=row.id, detail=row.detail)
        for row in rows[:limit]
    ]
    return Page(items=items, next=following)


@router.post("/v1/callbacks/{provider}", status_code=204)
async def take_receipt(
    provider: Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,32}$")],  # noqa: ARG001  # one contract so far
    request: Request,
    state: ChassisDep,
    now: Now,
) -> Response:
    """Takes a delivery receipt: JSON signed in `X-Signature` by HMAC-SHA256 over the raw body.

    One about an unknown message, repeated or late changes nothing and is answered the same.
    """
    secret: str | None = request.app.state.callback_secret
    body = await _limited_body(request)
    given = request.headers.get("x-signature", "")
    if not secret or not hmac.compare_digest(_signature(secret, body), given.encode()):
        raise Problem(401, "wrong-signature", "The receipt is not signed with the shared secret.")
    try:
        receipt = Receipt.model_validate_json(body)
    except ValidationError as error:
        raise validation_problem(error.errors()) from error
    delivery = receipts.WORDS[receipt.status]
    if delivery is None:
        return Response(status_code=204)
    async with state.database.connect() as connection:
        clinic_id = await queries.clinic_of(connection, receipt.id)
    if clinic_id is None:
        return Response(status_code=204)
    async with state.database.transaction((clinic_id,)) as connection:
        await receipts.take_receipt(connection, clinic_id, receipt.id, delivery, now)
    return Response(status_code=204)


async def _limited_body(request: Request) -> bytes:
    """The body, given up as soon as it is too long: who sends it is not known yet."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_RECEIPT:
            raise Problem(413, "too-large", "A receipt has at most 64 KiB.")
    return bytes(body)


def _signature(secret: str, body: bytes) -> bytes:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest().encode()


_POSITION = TypeAdapter(tuple[Time, UUID])


def _position(cursor: str | None) -> tuple[datetime, UUID] | None:
    return None if cursor is None else position_of(cursor, 2, _POSITION)


def _message(row: Any) -> Message:
    return Message(
        message_id=row.message_id,
        patient_id=row.patient_id,
        journey=row.journey,
        step=row.step,
        subject_id=row.subject_id,
        legal_class=row.legal_class,
        status=row.state,
        reason=row.reason,
        channel=row.channel,
        due_at=row.due_at,
        expires_at=row.expires_at,
        sent_at=row.decided_at if row.state in {"sent", "uncertain"} else None,
        delivery=row.delivery,
    )
