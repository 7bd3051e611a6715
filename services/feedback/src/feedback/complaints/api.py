"""HTTP resources of complaints: the list, recording one, causes, the resolution."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response, status
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.complaints import store, usecases
from feedback.complaints.domain import (
    UNCLASSIFIED,
    Complaint,
    ComplaintNotFoundError,
    Origin,
    Severity,
)
from feedback.positions import time_and_id
from feedback.sealing import unseal
from revisit_chassis.audit import record_audit
from revisit_chassis.crypto import Keyring
from revisit_chassis.http import ChassisDep, ClinicConnection, ClinicId, Now, require
from revisit_chassis.idempotency import IdempotencyKey, once
from revisit_chassis.identifiers import canonical_id
from revisit_chassis.pages import Cursor, Limit, Page, encode_cursor
from revisit_chassis.tokens import Principal

router = APIRouter(tags=["complaints"])
Reader = Annotated[Principal, Depends(require("complaints:read"))]
Writer = Annotated[Principal, Depends(require("complaints:write"))]
Identifier = Annotated[str, Field(min_length=1, max_length=64)]
Code = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9_.-]*$")]
Text = Annotated[str, Field(max_length=10_000)]


class ComplaintView(BaseModel):
    """A complaint."""

    complaint_id: UUID
    origin: Origin
    origin_id: UUID | None
    patient_id: UUID | None
    visit_id: UUID | None
    practitioner_id: UUID | None
    severity: Severity
    cause_code: str
    state: Literal["open", "resolved"]
    opened_at: datetime
    due_at: datetime
    is_overdue: bool
    rule_version: int | None
    text: str | None
    resolution_code: str | None
    resolution_text: str | None
    resolved_at: datetime | None
    resolved_by: str | None
    hours_to_resolve: float | None


class NewComplaint(BaseModel):
    """A complaint that staff heard."""

    model_config = ConfigDict(extra="forbid")

    severity: Severity
    patient_id: Identifier | None = None
    visit_id: Identifier | None = None
    practitioner_id: Identifier | None = None
    cause_code: Code = UNCLASSIFIED
    text: Text | None = None


class NewCause(BaseModel):
    """What a complaint was caused by."""

    model_config = ConfigDict(extra="forbid")

    cause_code: Code = Field(description="Such as waiting, staff, price, treatment")


class Resolution(BaseModel):
    """How a complaint ended."""

    model_config = ConfigDict(extra="forbid")

    resolution_code: Code = Field(description="Such as apologised, refunded, corrected, unfounded")
    text: Text | None = None


@router.get("/v1/complaints")
async def list_complaints(
    *,
    request: Request,
    connection: ClinicConnection,
    clinic_id: ClinicId,
    _: Reader,
    now: Now,
    state: Literal["open", "resolved", "all"] = "open",
    severity: Severity | None = None,
    origin: Origin | None = None,
    patient_id: Annotated[str, Query(min_length=1, max_length=64)] | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[ComplaintView]:
    """Complaints in the order they were opened."""
    wanted = store.ComplaintFilter(
        is_open={"open": True, "resolved": False}.get(state),
        severity=severity,
        patient_id=canonical_id(clinic_id, "patient", patient_id) if patient_id else None,
        origin=origin,
    )
    after = time_and_id(cursor) if cursor else None
    found = await store.page(connection, clinic_id, wanted, after=after, limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    keyring = _keyring(request)
    return Page(
        items=[_view(keyring, row, now) for row in found[:limit]],
        next=encode_cursor((last.opened_at, last.complaint_id)) if last else None,
    )


@router.get("/v1/complaints/{complaint_id}")
async def get_complaint(
    *,
    request: Request,
    connection: ClinicConnection,
    clinic_id: ClinicId,
    _: Reader,
    now: Now,
    complaint_id: UUID,
) -> ComplaintView:
    """One complaint."""
    found = await store.load(connection, clinic_id, complaint_id)
    if found is None:
        raise ComplaintNotFoundError
    return _view(_keyring(request), found, now)


@router.post("/v1/complaints", status_code=201, response_model=ComplaintView)
async def record_complaint(
    *,
    request: Request,
    state: ChassisDep,
    clinic_id: ClinicId,
    caller: Writer,
    now: Now,
    body: NewComplaint,
    key: IdempotencyKey = None,
) -> Response:
    """Records a complaint heard by staff; it is due in 72 hours."""
    keyring = _keyring(request)

    def own(noun: str, identifier: str | None) -> UUID | None:
        return canonical_id(clinic_id, noun, identifier) if identifier else None

    async def record(connection: AsyncConnection) -> Response:
        complaint = await usecases.record_complaint(
            connection,
            keyring,
            clinic_id,
            patient_id=own("patient", body.patient_id),
            visit_id=own("visit", body.visit_id),
            practitioner_id=own("practitioner", body.practitioner_id),
            severity=body.severity,
            cause_code=body.cause_code,
            text=body.text,
            now=now,
        )
        await _audit(connection, request, caller, complaint, action="complaint.open", now=now)
        return _answer(keyring, complaint, now, status.HTTP_201_CREATED)

    return await once(request, state.database, clinic_id, key, record)


@router.post("/v1/complaints/{complaint_id}/causes", status_code=201, response_model=ComplaintView)
async def record_cause(
    *,
    request: Request,
    state: ChassisDep,
    clinic_id: ClinicId,
    caller: Writer,
    now: Now,
    complaint_id: UUID,
    body: NewCause,
    key: IdempotencyKey = None,
) -> Response:
    """Records what caused a complaint; the latest cause stands."""
    keyring = _keyring(request)

    async def record(connection: AsyncConnection) -> Response:
        complaint = await usecases.classify_complaint(
            connection,
            clinic_id,
            complaint_id,
            cause_code=body.cause_code,
            by=caller.sub,
            now=now,
        )
        await _audit(connection, request, caller, complaint, action="complaint.classify", now=now)
        return _answer(keyring, complaint, now, status.HTTP_201_CREATED)

    return await once(request, state.database, clinic_id, key, record)


@router.post("/v1/complaints/{complaint_id}/resolution", response_model=ComplaintView)
async def resolve_complaint(
    *,
    request: Request,
    state: ChassisDep,
    clinic_id: ClinicId,
    caller: Writer,
    now: Now,
    complaint_id: UUID,
    body: Resolution,
    key: IdempotencyKey = None,
) -> Response:
    """Ends a complaint with what was done about it."""
    keyring = _keyring(request)

    async def resolve(connection: AsyncConnection) -> Response:
        complaint = await usecases.resolve_complaint(
            connection,
            keyring,
            clinic_id,
            complaint_id,
            resolution_code=body.resolution_code,
            text=body.text,
            by=caller.sub,
            now=now,
        )
        await _audit(connection, request, caller, complaint, action="complaint.resolve", now=now)
        return _answer(keyring, complaint, now)

    return await once(request, state.database, clinic_id, key, resolve)


async def _audit(
    connection: AsyncConnection,
    request: Request,
    caller: Principal,
    complaint: Complaint,
    *,
    action: str,
    now: datetime,
) -> None:
    await record_audit(
        connection,
        clinic_id=complaint.clinic_id,
        actor=caller.sub,
        action=action,
        record=f"complaint:{complaint.complaint_id}",
        at=now,
        correlation_id=request.scope.get("correlation_id"),
    )


def _answer(keyring: Keyring, complaint: Complaint, now: datetime, code: int = 200) -> Response:
    return JSONResponse(_view(keyring, complaint, now).model_dump(mode="json"), code)


def _view(keyring: Keyring, row: Complaint, now: datetime) -> ComplaintView:
    def text(sealed: bytes | None, name: str) -> str | None:
        return unseal(keyring, sealed, row.clinic_id, row.complaint_id, name)

    return ComplaintView(
        complaint_id=row.complaint_id,
        origin=row.origin,
        origin_id=row.origin_id,
        patient_id=row.patient_id,
        visit_id=row.visit_id,
        practitioner_id=row.practitioner_id,
        severity=row.severity,
        cause_code=row.cause_code,
        state="open" if row.resolved_at is None else "resolved",
        opened_at=row.opened_at,
        due_at=row.due_at,
        is_overdue=row.is_overdue(now),
        rule_version=row.rule_version,
        text=text(row.text, "text"),
        resolution_code=row.resolution_code,
        resolution_text=text(row.resolution_text, "resolution_text"),
        resolved_at=row.resolved_at,
        resolved_by=row.resolved_by,
        hours_to_resolve=row.hours_to_resolve,
    )


def _keyring(request: Request) -> Keyring:
    keyring: Keyring = request.app.state.keyring
    return keyring
