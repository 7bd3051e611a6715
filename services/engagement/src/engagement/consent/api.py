"""Consents of a patient over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from engagement.consent import usecases
from engagement.consent.domain import ConsentState, Purpose, Statement
from revisit_chassis.audit import record_audit
from revisit_chassis.http import ClinicConnection, ClinicId, CurrentPrincipal, Now, require
from revisit_chassis.identifiers import canonical_id
from revisit_events.contracts.fields import NO_NUL, Time

router = APIRouter(tags=["consents"])
Identifier = Annotated[str, Path(min_length=1, max_length=64, pattern=NO_NUL)]
Word = Annotated[str, Field(min_length=1, max_length=100, pattern=NO_NUL)]


class Consent(BaseModel):
    """What a patient said about one purpose in one channel."""

    model_config = ConfigDict(extra="ignore")

    purpose: Purpose
    channel: Word
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
    return _answer(patient, standing)


@router.get("/v1/patients/{patient_id}/consents", dependencies=[Depends(require("consents:read"))])
async def read_consents(
    patient_id: Identifier, connection: ClinicConnection, clinic_id: ClinicId
) -> ConsentsAnswer:
    """Gives what stands; nothing said yet is an empty list."""
    patient = canonical_id(clinic_id, "patient", patient_id)
    return _answer(patient, await usecases.standing(connection, clinic_id, patient))


def _answer(patient_id: UUID, standing: list[Statement]) -> ConsentsAnswer:
    return ConsentsAnswer(
        patient_id=patient_id,
        consents=[
            Consent(
                purpose=one.purpose,
                channel=one.channel,
                state=one.state,
                wording_version=one.wording_version,
                source=one.source,
                given_at=one.given_at,
            )
            for one in standing
        ],
    )
