"""Consents of a patient over HTTP."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from engagement.consent import usecases
from engagement.consent.domain import ConsentState, Purpose, Statement, is_too_far_ahead
from engagement.messages.domain import Channel
from revisit_chassis.audit import record_audit
from revisit_chassis.http import ClinicConnection, ClinicId, CurrentPrincipal, Now, require
from revisit_chassis.identifiers import canonical_id
from revisit_chassis.problem import FieldError, Problem
from revisit_events.contracts.fields import NO_NUL, Time

router = APIRouter(tags=["consents"])
Identifier = Annotated[str, Path(min_length=1, max_length=64, pattern=NO_NUL)]
Word = Annotated[str, Field(min_length=1, max_length=100, pattern=NO_NUL)]


class Consent(BaseModel):
    """What a patient said about one purpose in one channel."""

    model_config = ConfigDict(extra="ignore")

    purpose: Purpose
    channel: Channel
    state: ConsentState
    wording_version: Word
    source: Word
    given_at: Time


class ConsentsRequest(BaseModel):
    """Statements to record."""

    consents: Annotated[list[Consent], Field(min_length=1, max_length=100)]


class ConsentsAnswer(BaseModel):
    """What stands now."""

    patient_id: UUID
    consents: list[Consent]


class LedgerView(BaseModel):
    """The patient's chain of statements, computed again for this answer."""

    length: int
    head: str = Field(description="Digest of the last entry, hexadecimal")
    broken_at: int | None = Field(description="First entry that does not fit; null: intact")


class ConsentsView(ConsentsAnswer):
    """What stands now, and whether the ledger behind it is intact."""

    ledger: LedgerView


@router.put("/v1/patients/{patient_id}/consents", dependencies=[Depends(require("consents:write"))])
async def put_consents(
    patient_id: Identifier,
    body: ConsentsRequest,
    request: Request,
    connection: ClinicConnection,
    clinic_id: ClinicId,
    caller: CurrentPrincipal,
    now: Now,
) -> ConsentsAnswer:
    """Records what a patient said; of statements about the same thing the latest stands."""
    _refuse_dates_ahead(body.consents, now)
    patient = canonical_id(clinic_id, "patient", patient_id)
    statements = [Statement(**consent.model_dump()) for consent in body.consents]
    standing = await usecases.record_statements(
        connection, clinic_id, patient, statements, by=caller.sub, now=now
    )
    await record_audit(
        connection,
        clinic_id=clinic_id,
        actor=caller.sub,
        action="consents.record",
        record=f"patient:{patient}",
        at=now,
        correlation_id=request.scope.get("correlation_id"),
    )
    return ConsentsAnswer(patient_id=patient, consents=_views(standing))


@router.get("/v1/patients/{patient_id}/consents", dependencies=[Depends(require("consents:read"))])
async def read_consents(
    patient_id: Identifier, connection: ClinicConnection, clinic_id: ClinicId
) -> ConsentsView:
    """Gives what stands; nothing said yet is an empty list."""
    patient = canonical_id(clinic_id, "patient", patient_id)
    ledger = await usecases.verified_ledger(connection, clinic_id, patient)
    return ConsentsView(
        patient_id=patient,
        consents=_views(await usecases.standing(connection, clinic_id, patient)),
        ledger=LedgerView(length=ledger.length, head=ledger.head, broken_at=ledger.broken_at),
    )


def _refuse_dates_ahead(consents: list[Consent], now: datetime) -> None:
    wrong = [n for n, consent in enumerate(consents) if is_too_far_ahead(consent.given_at, now)]
    if wrong:
        detail = "must not be later than now, give or take five minutes"
        raise Problem(
            422,
            "invalid-request",
            f"/consents/{wrong[0]}/given_at: {detail}",
            errors=[FieldError(f"/consents/{number}/given_at", detail) for number in wrong],
        )


def _views(standing: list[Statement]) -> list[Consent]:
    return [
        Consent(
            purpose=one.purpose,
            channel=Channel(one.channel),
            state=one.state,
            wording_version=one.wording_version,
            source=one.source,
            given_at=one.given_at,
        )
        for one in standing
    ]
