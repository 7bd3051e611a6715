"""What requests and events name: rows for what is not known yet, and the clinic's own identifiers of it."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from booking.store.rows import Key, run
from revisit_chassis.db import fetch

Identifier = tuple[UUID, str, UUID, str]
"""Clinic, noun, our UUID and the clinic's identifier."""


def stubs_of(patients: str, practitioners: str, services: str) -> str:
    """SQL that makes rows for whatever is named and not known yet, in the order of locks.

    Parts of a statement, the last of them `stubs` with their number. A part that nobody reads would be run
    after the others: each is counted by the one that follows it, and what comes after reads `stubs`.

    Args:
        patients: Query for clinics and ids; one may come more often.
        practitioners: The same.
        services: Query for clinics and codes.
    """
    return f"""patients AS (
  INSERT INTO patient (clinic_id, patient_id)
  SELECT DISTINCT * FROM ({patients}) AS named ORDER BY 1, 2
  ON CONFLICT DO NOTHING RETURNING true
), practitioners AS (
  INSERT INTO practitioner (clinic_id, practitioner_id)
  SELECT DISTINCT * FROM ({practitioners}) AS named
  WHERE (SELECT count(*) FROM patients) >= 0 ORDER BY 1, 2
  ON CONFLICT DO NOTHING RETURNING true
), services AS (
  INSERT INTO service (clinic_id, service_code)
  SELECT DISTINCT * FROM ({services}) AS named
  WHERE (SELECT count(*) FROM patients) + (SELECT count(*) FROM practitioners) >= 0 ORDER BY 1, 2
  ON CONFLICT DO NOTHING RETURNING true
), stubs AS MATERIALIZED (
  SELECT (SELECT count(*) FROM patients) + (SELECT count(*) FROM practitioners)
       + (SELECT count(*) FROM services) AS number
)"""  # noqa: S608  (made of constants)


_STUBS_OF_NAMED = stubs_of(
    "SELECT * FROM unnest($1::named_row[])",
    "SELECT * FROM unnest($2::named_row[])",
    "SELECT * FROM unnest($3::named_code[])",
)
STUBS = f"WITH {_STUBS_OF_NAMED} SELECT number FROM stubs"  # noqa: S608  (a constant)
"""Rows for whatever is named, in one statement, because a round trip costs more."""
# LATERAL with a LIMIT is one look at the key a name, by any plan: asked as NOT EXISTS, a plan that was made
# while a clinic was new read all its patients for every request.
KEEP_IDENTIFIERS = """
WITH named AS MATERIALIZED (
  SELECT DISTINCT ON (clinic_id, noun, id) clinic_id, noun, id, identifier
  FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[]) AS given (clinic_id, noun, id, identifier)
  ORDER BY clinic_id, noun, id, identifier
), kept AS (
  INSERT INTO identifier (clinic_id, noun, id, identifier)
  SELECT clinic_id, noun, id, identifier FROM named WHERE noun <> 'patient'
  ON CONFLICT DO NOTHING
), unknown AS MATERIALIZED (
  SELECT clinic_id, noun, id, identifier FROM named
  LEFT JOIN LATERAL (
    SELECT true AS is_known FROM identifier
    WHERE identifier.clinic_id = named.clinic_id AND identifier.noun = named.noun
      AND identifier.id = named.id
    LIMIT 1
  ) AS before ON true
  WHERE noun = 'patient' AND is_known IS NULL
), patients AS (
  INSERT INTO patient (clinic_id, patient_id) SELECT clinic_id, id FROM unknown ORDER BY 1, 2
  ON CONFLICT DO NOTHING
)
SELECT clinic_id, noun, id, identifier FROM unknown ORDER BY clinic_id, id
"""
# A statement of its own, because it has to see what an erasure did that the one before has waited for: the
# patient's row, which every patient has by now, is where the two meet.
KEEP_PATIENTS_IDENTIFIERS = """
INSERT INTO identifier (clinic_id, noun, id, identifier)
SELECT clinic_id, noun, id, identifier
FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[]) AS named (clinic_id, noun, id, identifier)
CROSS JOIN LATERAL (
  SELECT erased_at FROM patient
  WHERE patient.clinic_id = named.clinic_id AND patient.patient_id = named.id
  LIMIT 1 FOR NO KEY UPDATE
) AS locked
WHERE erased_at IS NULL
ON CONFLICT DO NOTHING
"""
FORGET_IDENTIFIERS = """
DELETE FROM identifier USING unnest($1::uuid[], $2::uuid[]) AS erased (clinic_id, patient_id)
WHERE identifier.clinic_id = erased.clinic_id AND noun = 'patient' AND id = erased.patient_id
"""


async def make_stubs(
    connection: AsyncConnection,
    patients: Collection[tuple[UUID, Any]] = (),
    practitioners: Collection[tuple[UUID, Any]] = (),
    services: Collection[tuple[UUID, Any]] = (),
) -> None:
    """Makes rows for what is not known yet, in the order of locks.

    Args:
        connection: Inside a transaction.
        patients: Clinic and id of each.
        practitioners: The same.
        services: Clinic and code of each.
    """
    if patients or practitioners or services:
        await fetch(connection, STUBS, list(patients), list(practitioners), list(services))


async def keep_identifiers(connection: AsyncConnection, rows: Sequence[Identifier]) -> None:
    """Remembers the clinic's own names of records, but for those of erased patients.

    Args:
        connection: Inside a transaction, before it takes other locks.
        rows: In order.
    """
    if not rows:
        return
    if patients := [tuple(row) for row in await run(connection, KEEP_IDENTIFIERS, rows)]:
        await run(connection, KEEP_PATIENTS_IDENTIFIERS, patients)


async def forget_identifiers(connection: AsyncConnection, patients: Sequence[Key]) -> None:
    """Forgets how the clinic calls erased patients.

    Args:
        connection: Inside a transaction that holds the patients' rows.
        patients: Clinic and id of each.
    """
    await run(connection, FORGET_IDENTIFIERS, patients)
