"""Rows of the projections: set-based, and what stands is decided by precedence alone."""

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import fetch

Pair = tuple[uuid.UUID, uuid.UUID]


@dataclass(frozen=True, slots=True)
class Clinic:
    """What feedback knows of a clinic."""

    clinic_id: uuid.UUID
    name: str
    language: str
    live_from: datetime
    precedence: str = ""


class Visit(NamedTuple):
    """What feedback knows of a visit; the columns of its statement, in order."""

    clinic_id: uuid.UUID
    visit_id: uuid.UUID
    patient_id: uuid.UUID
    practitioner_id: uuid.UUID | None
    completed_at: datetime
    precedence: str


async def upsert_clinics(connection: AsyncConnection, clinics: Sequence[Clinic]) -> None:
    """Stores clinics; of several states of one the greatest precedence stands.

    Waits for whoever is just storing something that depends on a clinic; see `hold_clinics`.
    """
    await _lock(connection, _clinic_keys(row.clinic_id for row in clinics), "pg_advisory_xact_lock")
    await connection.execute(
        sa.text("""
            INSERT INTO clinic AS t (clinic_id, name, language, live_from, precedence)
            SELECT DISTINCT ON (clinic_id) *
            FROM unnest(
                CAST(:clinics AS uuid[]), CAST(:names AS text[]), CAST(:languages AS text[]),
                CAST(:lives AS timestamptz[]), CAST(:precedences AS text[])
            ) AS u (clinic_id, name, language, live_from, precedence)
            ORDER BY clinic_id, precedence COLLATE "C" DESC
            ON CONFLICT (clinic_id) DO UPDATE
            SET name = excluded.name, language = excluded.language,
                live_from = excluded.live_from, precedence = excluded.precedence
            WHERE excluded.precedence > t.precedence
        """),
        {
            "clinics": [row.clinic_id for row in clinics],
            "names": [row.name for row in clinics],
            "languages": [row.language for row in clinics],
            "lives": [row.live_from for row in clinics],
            "precedences": [row.precedence for row in clinics],
        },
    )


async def hold_clinics(connection: AsyncConnection, clinic_ids: Collection[uuid.UUID]) -> None:
    """Keeps what is known of clinics, and that they are unknown, until this transaction ends.

    Taken before any lock on patients, here and by consumers, so that nobody waits in a circle.
    """
    await _lock(connection, _clinic_keys(clinic_ids), "pg_advisory_xact_lock_shared")


_UPSERT_VISITS = """
    INSERT INTO visit AS t (
        clinic_id, visit_id, patient_id, practitioner_id, completed_at, precedence
    )
    SELECT DISTINCT ON (clinic_id, visit_id) *
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[], $6::text[])
        AS u (clinic_id, visit_id, patient_id, practitioner_id, completed_at, precedence)
    ORDER BY clinic_id, visit_id, precedence COLLATE "C" DESC
    ON CONFLICT (clinic_id, visit_id) DO UPDATE
    SET patient_id = excluded.patient_id, practitioner_id = excluded.practitioner_id,
        completed_at = excluded.completed_at, precedence = excluded.precedence
    WHERE excluded.precedence > t.precedence
"""


async def upsert_visits(connection: AsyncConnection, visits: Sequence[Visit]) -> None:
    """Stores visits; of several states of one the greatest precedence stands."""
    if visits:
        await fetch(connection, _UPSERT_VISITS, *map(list, zip(*visits, strict=True)))


async def mark_erased(
    connection: AsyncConnection, pairs: Sequence[tuple[uuid.UUID, uuid.UUID, datetime]]
) -> None:
    """Remembers who was erased, and when first.

    Waits for whoever is just storing something of the patients; what comes later sees the erasure.
    """
    keys = _patient_keys((clinic_id, patient_id) for clinic_id, patient_id, _ in pairs)
    await _lock(connection, keys, "pg_advisory_xact_lock")
    await connection.execute(
        sa.text("""
            INSERT INTO erased_patient AS t (clinic_id, patient_id, erased_at)
            SELECT clinic_id, patient_id, min(erased_at)
            FROM unnest(
                CAST(:clinics AS uuid[]), CAST(:patients AS uuid[]), CAST(:times AS timestamptz[])
            ) AS u (clinic_id, patient_id, erased_at)
            GROUP BY clinic_id, patient_id
            ORDER BY clinic_id, patient_id
            ON CONFLICT (clinic_id, patient_id) DO UPDATE
            SET erased_at = least(t.erased_at, excluded.erased_at)
        """),
        {
            "clinics": [clinic_id for clinic_id, _, _ in pairs],
            "patients": [patient_id for _, patient_id, _ in pairs],
            "times": [erased_at for _, _, erased_at in pairs],
        },
    )


async def erased_among(connection: AsyncConnection, pairs: Collection[Pair]) -> set[Pair]:
    """Those of the patients who were erased; no other is erased until this transaction ends."""
    if not pairs:
        return set()
    await _lock(connection, _patient_keys(pairs), "pg_advisory_xact_lock_shared")
    rows = await connection.execute(
        sa.text("""
            SELECT clinic_id, patient_id FROM erased_patient
            JOIN unnest(CAST(:clinics AS uuid[]), CAST(:patients AS uuid[]))
                AS u (clinic_id, patient_id) USING (clinic_id, patient_id)
        """),
        {
            "clinics": [clinic_id for clinic_id, _ in pairs],
            "patients": [patient_id for _, patient_id in pairs],
        },
    )
    return {(row.clinic_id, row.patient_id) for row in rows}


async def clinics_by_id(
    connection: AsyncConnection, clinic_ids: Collection[uuid.UUID]
) -> dict[uuid.UUID, Clinic]:
    """The clinics that are registered."""
    rows = await connection.execute(
        sa.text("""
            SELECT clinic_id, name, language, live_from, precedence FROM clinic
            WHERE clinic_id = ANY (CAST(:clinics AS uuid[]))
        """),
        {"clinics": list(clinic_ids)},
    )
    return {
        row.clinic_id: Clinic(row.clinic_id, row.name, row.language, row.live_from, row.precedence)
        for row in rows
    }


async def practitioner_of(
    connection: AsyncConnection, clinic_id: uuid.UUID, visit_id: uuid.UUID
) -> uuid.UUID | None:
    """Whom the patient saw; None as well while the visit is unknown."""
    found: uuid.UUID | None = await connection.scalar(
        sa.text("""
            SELECT practitioner_id FROM visit
            WHERE clinic_id = :clinic_id AND visit_id = :visit_id
        """),
        {"clinic_id": clinic_id, "visit_id": visit_id},
    )
    return found


async def _lock(connection: AsyncConnection, keys: Iterable[int], function: str) -> None:
    # In one order everywhere, so that two that meet wait and do not deadlock.
    await connection.execute(
        sa.text(f"SELECT {function}(k) FROM unnest(CAST(:keys AS bigint[])) AS k"),  # noqa: S608
        {"keys": sorted(set(keys))},
    )


def _clinic_keys(clinic_ids: Iterable[uuid.UUID]) -> list[int]:
    return [_key(clinic_id.int) for clinic_id in clinic_ids]


def _patient_keys(pairs: Iterable[Pair]) -> list[int]:
    return [_key(clinic_id.int ^ patient_id.int) for clinic_id, patient_id in pairs]


def _key(number: int) -> int:
    return int.from_bytes(number.to_bytes(16)[:8], signed=True)
