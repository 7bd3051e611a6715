"""Patients: who they are is encrypted in its columns, bound to the row it belongs to."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from booking import tables
from booking.domain.patient import Acquisition, Contacts, Identity, Name, Particulars, Patient
from booking.store.rows import Key, is_row, sequence_of, time_of
from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Row, fetch

# Registering patients is what a clinic's systems do most besides telling events, so these are the
# driver's own statements.
_COLUMNS = ", ".join(tables.patient.columns.keys())
_LOCK = f"""
WITH stub AS (
  INSERT INTO patient (clinic_id, patient_id) VALUES ($1, $2) ON CONFLICT DO NOTHING
  RETURNING {_COLUMNS}
)
SELECT {_COLUMNS} FROM (
  SELECT {_COLUMNS} FROM patient WHERE clinic_id = $1 AND patient_id = $2 FOR UPDATE
) AS known
UNION ALL SELECT {_COLUMNS} FROM stub
"""  # noqa: S608  (names of our own columns)
_SAVE_PERSON = """
UPDATE patient SET
  version = $3, identity_encrypted = $4, contacts_encrypted = $5, contacts_told_at = $6
WHERE clinic_id = $1 AND patient_id = $2
"""


async def is_erased(connection: AsyncConnection, clinic_id: UUID, patient_id: UUID) -> bool:
    """Whether the patient was erased."""
    query = sa.select(tables.patient.c.erased_at).where(
        is_row(tables.patient, clinic_id, patient_id=patient_id)
    )
    return (await connection.execute(query)).scalar() is not None


async def erased(connection: AsyncConnection, keys: Collection[Key]) -> set[Key]:
    """Those of the patients who were erased."""
    table = tables.patient
    query = sa.select(table.c.clinic_id, table.c.patient_id).where(
        sa.tuple_(table.c.clinic_id, table.c.patient_id).in_(sorted(keys)),
        table.c.erased_at.is_not(None),
    )
    return {(row.clinic_id, row.patient_id) for row in await connection.execute(query)}


async def patient(
    connection: AsyncConnection, keyring: Keyring, clinic_id: UUID, patient_id: UUID
) -> Patient | None:
    """One patient with name and contacts in clear."""
    query = sa.select(tables.patient).where(
        is_row(tables.patient, clinic_id, patient_id=patient_id)
    )
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else _patient_from_row(row, keyring)


async def lock_patient(
    connection: AsyncConnection, keyring: Keyring, clinic_id: UUID, patient_id: UUID
) -> Patient:
    """One patient, locked until the transaction ends; a stub where there was none."""
    return _patient_from_row(await _locked_row(connection, clinic_id, patient_id), keyring)


async def _locked_row(connection: AsyncConnection, clinic_id: UUID, patient_id: UUID) -> Row:
    rows = await fetch(connection, _LOCK, clinic_id, patient_id)
    # Without one somebody made it meanwhile: the statement waited for them, but looked before it waited.
    rows = rows or await fetch(connection, _LOCK, clinic_id, patient_id)
    return rows[0]


async def lock_bare(connection: AsyncConnection, clinic_id: UUID, patient_id: UUID) -> Patient:
    """One patient, locked, without what is encrypted; a stub where there was none."""
    row = await _locked_row(connection, clinic_id, patient_id)
    return _patient_from_row(row, None)


async def lock_next_versions(
    connection: AsyncConnection, keyring: Keyring, keys: Sequence[Key]
) -> list[tuple[UUID, Patient]]:
    """Clinic and patient of each key, raised to the next version; erased ones are left out."""
    rows = await fetch(
        connection,
        """
        UPDATE patient SET version = patient.version + 1
        FROM unnest($1::uuid[], $2::uuid[]) AS wanted (clinic_id, patient_id)
        WHERE patient.clinic_id = wanted.clinic_id AND patient.patient_id = wanted.patient_id
          AND erased_at IS NULL
        RETURNING patient.*
        """,
        [key[0] for key in keys],
        [key[1] for key in keys],
    )
    return [(row["clinic_id"], _patient_from_row(row, keyring)) for row in rows]


def sealed(keyring: Keyring, clinic_id: UUID, patient: Patient) -> tuple[bytes, bytes]:
    """Name and date of birth, and contacts, encrypted for the patient's row."""
    key = (clinic_id, patient.patient_id)
    identity: dict[str, Any] = {"name": name_document(patient.identity.name)}
    if patient.identity.birth_on is not None:
        identity["birth_on"] = patient.identity.birth_on.isoformat()
    contacts = contacts_document(patient.contacts)
    return (
        keyring.encrypt(_json(identity), context_of("identity", *key)),
        keyring.encrypt(_json(contacts), context_of("contacts", *key)),
    )


async def save_person(
    connection: AsyncConnection,
    clinic_id: UUID,
    patient: Patient,
    person: tuple[bytes, bytes, datetime | None],
) -> None:
    """Writes what `sealed` gave, and when it was told, into a locked row."""
    key = (clinic_id, patient.patient_id)
    await fetch(connection, _SAVE_PERSON, *key, patient.version, *person)


def name_document(name: Name) -> dict[str, str | None]:
    """A name as JSON holds it."""
    return {"family": name.family, "given": name.given, "middle": name.middle}


def contacts_document(contacts: Contacts) -> dict[str, Any]:
    """Contacts as JSON holds them, without what is unknown."""
    document: dict[str, Any] = dict(contacts.messengers)
    document |= {"phone": contacts.phone, "email": contacts.email}
    return {name: value for name, value in document.items() if value is not None}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def context_of(column: str, clinic_id: UUID, patient_id: UUID) -> bytes:
    """What a column's ciphertext is bound to."""
    # Authenticated with the ciphertext: a block copied to another row or column does not decrypt.
    return f"booking.patient.{column}:{clinic_id}:{patient_id}".encode()


def _patient_from_row(row: Row | Mapping[Any, Any], keyring: Keyring | None) -> Patient:
    key = (row["clinic_id"], row["patient_id"])
    identity, contacts = Identity(), Contacts()
    if keyring and row["identity_encrypted"] is not None:
        document = json.loads(
            keyring.decrypt(row["identity_encrypted"], context_of("identity", *key))
        )
        birth_on = document.get("birth_on")
        identity = Identity(
            Name(**document["name"]), date.fromisoformat(birth_on) if birth_on else None
        )
    if keyring and row["contacts_encrypted"] is not None:
        document = json.loads(
            keyring.decrypt(row["contacts_encrypted"], context_of("contacts", *key))
        )
        phone, email = document.pop("phone", None), document.pop("email", None)
        contacts = Contacts(phone, email, tuple(sorted(document.items())))
    return Patient(
        patient_id=row["patient_id"],
        particulars=_particulars_from_row(row),
        identity=identity,
        contacts=contacts,
        is_registered=bool(row["precedence"]),
        told_at=max(
            filter(None, (time_of(row["precedence"]), row["contacts_told_at"])), default=None
        ),
        sequence=sequence_of(row["precedence"]),
        erased_at=row["erased_at"],
        version=row["version"],
    )


def _particulars_from_row(row: Row | Mapping[Any, Any]) -> Particulars:
    acquisition = Acquisition(
        row["acquisition_channel"], row["acquisition_cost_minor"], row["acquisition_currency"]
    )
    return Particulars(
        birth_year=row["birth_year"],
        sex=row["sex"],
        language=row["language"],
        time_zone=row["time_zone"],
        family_id=row["family_id"],
        payer=row["payer"],
        employer_id=row["employer_id"],
        is_chronic=bool(row["is_chronic"]),
        acquisition=acquisition if acquisition != Acquisition(None, None, None) else None,
    )
