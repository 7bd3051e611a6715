"""Registering, changing and erasing a patient."""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from booking.domain.errors import PatientErased as PatientErasedError
from booking.domain.patient import Contacts, Identity, Particulars, Patient
from booking.projection import SOURCE, Person, apply, apply_to_locked_patient
from booking.store import patients
from booking.usecases.recording import correlation_of_request
from revisit_chassis.crypto import Keyring
from revisit_events.contracts import (
    Acquisition,
    EncryptedContact,
    PatientContactChanged,
    PatientErased,
    PatientRegistered,
    PatientUpdated,
)
from revisit_events.envelope import AnyEvent, new_event
from revisit_events.outbox import publish


async def put_patient(
    connection: AsyncConnection,
    keyring: Keyring,
    clinic_id: UUID,
    before: Patient,
    particulars: Particulars,
    identity: Identity,
    contacts: Contacts,
    now: datetime,
) -> Patient:
    """Brings a patient to what the caller says; tells others only what changed.

    Args:
        connection: Inside a transaction of the clinic.
        keyring: Keys for name and contacts.
        clinic_id: The clinic.
        before: The patient, locked (`store.patients.lock_patient`).
        particulars: What other services may know.
        identity: Name and date of birth.
        contacts: Where the patient can be reached.
        now: Moment of the command.

    Raises:
        PatientErased: The id belonged to somebody who was erased.
    """
    if before.erased_at is not None:
        raise PatientErasedError
    told_at = max(now, before.told_at or now)
    after = replace(
        before,
        particulars=particulars,
        identity=identity,
        contacts=contacts,
        is_registered=True,
        told_at=told_at,
    )
    if after == replace(before, told_at=told_at):
        return before
    after = replace(after, version=before.version + 1)
    person = None
    if (identity, contacts) != (before.identity, before.contacts):
        person = Person(*patients.sealed(keyring, clinic_id, after), after.told_at)
    news: list[AnyEvent] = []
    if particulars != before.particulars or not before.is_registered:
        contract = PatientUpdated if before.is_registered else PatientRegistered
        event = _event(clinic_id, _particulars_data(contract, after), after)
        await apply_to_locked_patient(connection, event, after.version, person)
        news.append(event)
    elif person is not None:
        await patients.save_person(connection, clinic_id, after, person)
    if (identity.name, contacts) != (before.identity.name, before.contacts):
        block = _contact_block(keyring, clinic_id, after)
        data = PatientContactChanged(patient_id=after.patient_id, contact=block)
        news.append(_event(clinic_id, data, after))
    await publish(connection, news)
    return after


async def contacts_told(
    connection: AsyncConnection, keyring: Keyring, keys: Sequence[tuple[UUID, UUID]]
) -> list[AnyEvent]:
    """What patients' contacts are, once more, as the newest fact about them.

    Args:
        connection: Inside a transaction of the clinics.
        keyring: Encrypts the blocks.
        keys: Clinic and patient of each.
    """
    events = []
    for clinic_id, patient in await patients.lock_next_versions(connection, keyring, keys):
        block = _contact_block(keyring, clinic_id, patient)
        data = PatientContactChanged(patient_id=patient.patient_id, contact=block)
        events.append(_event(clinic_id, data, patient))
    return events


async def erase_patient(
    connection: AsyncConnection, clinic_id: UUID, patient_id: UUID, now: datetime
) -> bool:
    """Removes everything that leads to the person, here and (by events) elsewhere.

    A patient nobody registered is erased as well: another service may have heard of them first.

    Returns:
        Whether there was anything left to erase.
    """
    before = await patients.lock_bare(connection, clinic_id, patient_id)
    if before.erased_at is not None:
        return False
    told_at = max(now, before.told_at or now)
    erased = replace(before, told_at=told_at, version=before.version + 1)
    event = _event(clinic_id, PatientErased(patient_id=patient_id), erased)
    await apply(connection, [event], now)
    await publish(connection, [event])
    return True


def _event(
    clinic_id: UUID,
    data: PatientRegistered | PatientContactChanged | PatientErased,
    after: Patient,
) -> AnyEvent:
    if after.told_at is None:
        raise ValueError(after.patient_id)
    return new_event(
        data,
        source=SOURCE,
        clinic_id=clinic_id,
        time=after.told_at,
        sequence=after.own_sequence,
        correlation_id=correlation_of_request(),
    )


def _particulars_data(contract: type[PatientRegistered], after: Patient) -> PatientRegistered:
    told, acquisition = after.particulars, after.particulars.acquisition
    return contract(
        patient_id=after.patient_id,
        birth_year=told.birth_year,
        sex=told.sex,
        language=told.language,
        time_zone=told.time_zone,
        family_id=told.family_id,
        payer=told.payer,
        employer_id=told.employer_id,
        chronic=told.is_chronic,
        acquisition=None
        if acquisition is None
        else Acquisition(
            channel=acquisition.channel,
            cost_minor=acquisition.cost_minor,
            currency=acquisition.currency,
        ),
    )


def _contact_block(keyring: Keyring, clinic_id: UUID, after: Patient) -> EncryptedContact:
    """Name and contacts as they cross Kafka: encrypted, and bound to this patient of this clinic."""
    name = patients.name_document(after.identity.name)
    name = {part: text for part, text in name.items() if text is not None}
    document = {"name": name, **patients.contacts_document(after.contacts)}
    plaintext = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    ciphertext = keyring.encrypt(plaintext, f"{clinic_id}:{after.patient_id}".encode())
    return EncryptedContact(
        key_id=keyring.key_id_of(ciphertext), ciphertext=base64.b64encode(ciphertext).decode()
    )
