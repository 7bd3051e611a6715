"""`/v1/patients`: registration, changes, erasure."""

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from booking.api.calls import Call, KeyringDep, Names, answer_of, call_with
from booking.api.fields import OwnId
from booking.api.models import (
    AcquisitionBody,
    ContactsBody,
    NameBody,
    PatientAnswer,
    PatientBody,
    PatientReference,
)
from booking.domain.errors import NotFound
from booking.domain.patient import Acquisition, Contacts, Identity, Name, Particulars, Patient
from booking.store import clinics, patients
from booking.usecases import patients as commands
from revisit_chassis.etag import check_if_match
from revisit_chassis.http import ClinicConnection

router = APIRouter()

Reading = Annotated[Call, Depends(call_with("patients:read"))]
Writing = Annotated[Call, Depends(call_with("patients:write"))]


@router.put(
    "/v1/patients/{patient_id}",
    response_model=PatientReference,
    responses={201: {"model": PatientReference}},
)
async def put_patient(
    patient_id: OwnId,
    body: PatientBody,
    call: Writing,
    connection: ClinicConnection,
    keyring: KeyringDep,
) -> Response:
    """Registers a patient (201) or replaces what is known of them (200)."""
    canonical = call.names.id_of("patient", patient_id)
    particulars = _particulars(body, call.names)
    # Before the patient, as batches of events do: in another order the two would deadlock.
    await call.names.keep(connection)
    before = await patients.lock_patient(connection, keyring, call.clinic_id, canonical)
    check_if_match(call.if_match, _version(before))
    identity = Identity(Name(**body.name.model_dump()), body.birth_on)
    messengers = tuple(sorted(body.contacts.messengers.items()))
    after = await commands.put_patient(
        connection,
        keyring,
        call.clinic_id,
        before,
        particulars,
        identity,
        Contacts(body.contacts.phone, body.contacts.email, messengers),
        call.now,
    )
    await call.note(connection, "patient.put", "patient", canonical)
    answer = PatientReference(
        patient_id=canonical,
        patient_identifier=await _identifier(connection, call.names, canonical),
    )
    status = 200 if before.is_registered else 201
    return answer_of(answer, status=status, version=after.version)


@router.get("/v1/patients/{patient_id}", response_model=PatientAnswer)
async def get_patient(
    patient_id: OwnId, call: Reading, connection: ClinicConnection, keyring: KeyringDep
) -> Response:
    """A patient with name and contacts."""
    canonical = call.names.id_of("patient", patient_id)
    patient = await patients.patient(connection, keyring, call.clinic_id, canonical)
    if patient is None or patient.erased_at is not None:
        raise NotFound("patient")
    await call.note(connection, "patient.read", "patient", canonical)
    particulars = patient.particulars
    ids = [("patient", canonical)]
    ids += [("family", particulars.family_id)] if particulars.family_id else []
    ids += [("employer", particulars.employer_id)] if particulars.employer_id else []
    named = await clinics.identifiers(connection, call.clinic_id, ids)
    return answer_of(_patient_answer(patient, named), version=patient.version)


@router.delete("/v1/patients/{patient_id}", status_code=204)
async def delete_patient(
    patient_id: OwnId, call: Writing, connection: ClinicConnection
) -> Response:
    """Erases a patient here and everywhere; anonymous facts stay."""
    canonical = call.names.id_of("patient", patient_id)
    if call.if_match is not None:
        before = await patients.lock_bare(connection, call.clinic_id, canonical)
        check_if_match(call.if_match, _version(before))
    if await commands.erase_patient(connection, call.clinic_id, canonical, call.now):
        await call.note(connection, "patient.erase", "patient", canonical)
    return Response(status_code=204)


async def _identifier(connection: AsyncConnection, names: Names, patient_id: UUID) -> str | None:
    """The clinic's own name of a patient; kept already when it is what the caller said."""
    if (given := names.given("patient", patient_id)) is not None:
        return given
    kept = await clinics.identifiers(connection, names.clinic_id, [("patient", patient_id)])
    return kept.get(("patient", patient_id))


def _version(before: Patient) -> int | None:
    """The version of a patient that a caller can have read; a stub and an erased one nobody can."""
    return before.version if before.is_registered and before.erased_at is None else None


def _particulars(body: PatientBody, names: Names) -> Particulars:
    acquisition = body.acquisition
    told = Acquisition(**acquisition.model_dump()) if acquisition else None
    return Particulars(
        birth_year=body.birth_on.year if body.birth_on else None,
        sex=body.sex,
        language=body.language,
        time_zone=body.time_zone,
        family_id=names.optional_id_of("family", body.family_id),
        payer=body.payer,
        employer_id=names.optional_id_of("employer", body.employer_id),
        is_chronic=body.chronic,
        acquisition=told if told != Acquisition(None, None, None) else None,
    )


def _patient_answer(patient: Patient, named: Mapping[Any, str]) -> PatientAnswer:
    told, name, contacts = patient.particulars, patient.identity.name, patient.contacts
    acquisition = told.acquisition
    return PatientAnswer(
        patient_id=patient.patient_id,
        patient_identifier=named.get(("patient", patient.patient_id)),
        name=NameBody(family=name.family, given=name.given, middle=name.middle),
        birth_on=patient.identity.birth_on,
        sex=told.sex,
        language=told.language,
        time_zone=told.time_zone,
        contacts=ContactsBody.model_construct(
            phone=contacts.phone, email=contacts.email, messengers=dict(contacts.messengers)
        ),
        family_id=told.family_id,
        family_identifier=named.get(("family", told.family_id)),
        payer=told.payer,
        employer_id=told.employer_id,
        employer_identifier=named.get(("employer", told.employer_id)),
        chronic=told.is_chronic,
        acquisition=AcquisitionBody(
            channel=acquisition.channel,
            cost_minor=acquisition.cost_minor,
            currency=acquisition.currency,
        )
        if acquisition
        else None,
    )
