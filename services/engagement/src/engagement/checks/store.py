"""Rows of the checks: asking for one, finding and locking those that are due.

Lock order: patient, messages, `two_z`, tasks. Whoever changes tasks takes the patient's `two_z` row
first. The repair holds that row while it reads the facts, and every change of a fact touches the
row in its own transaction: a check therefore either sees the change or is asked for again by it.

Below both `tasks` and `two_z`, which use it.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import fetch


@dataclass(frozen=True, slots=True)
class DueCheck:
    """A patient who is to be looked at since `check_at`."""

    clinic_id: uuid.UUID
    patient_id: uuid.UUID
    check_at: datetime


# A row that is asked for earlier already is locked and not written.
_ASK = """
    INSERT INTO two_z AS t (clinic_id, patient_id, check_at)
    SELECT clinic_id, patient_id, min(check_at)
    FROM unnest($1::wanted_check[])
    GROUP BY clinic_id, patient_id
    ORDER BY clinic_id, patient_id
    ON CONFLICT (clinic_id, patient_id) DO UPDATE SET check_at = excluded.check_at
    WHERE t.check_at IS NULL OR excluded.check_at < t.check_at
"""


async def ask_for_checks(
    connection: AsyncConnection, checks: Sequence[tuple[uuid.UUID, uuid.UUID, datetime]]
) -> None:
    """Brings the next check of patients forward to the given times, and locks their rows."""
    if checks:
        await fetch(connection, _ASK, checks)


async def ask_for_clinics(
    connection: AsyncConnection, clinic_ids: Collection[uuid.UUID], now: datetime
) -> None:
    """Brings the checks of all known patients of clinics forward to now, locked in their order."""
    await connection.execute(
        sa.text("""
            WITH known AS (
                SELECT clinic_id, patient_id FROM two_z
                WHERE clinic_id = ANY (CAST(:clinics AS uuid[]))
                ORDER BY clinic_id, patient_id FOR UPDATE
            )
            UPDATE two_z AS t SET check_at = least(t.check_at, :now) FROM known AS k
            WHERE t.clinic_id = k.clinic_id AND t.patient_id = k.patient_id
        """),
        {"clinics": list(clinic_ids), "now": now},
    )


async def due_checks(connection: AsyncConnection, now: datetime, limit: int) -> list[DueCheck]:
    """The checks that are due, earliest first; sees every clinic with the worker's role."""
    rows = await connection.execute(
        sa.text("""
            SELECT clinic_id, patient_id, check_at FROM two_z
            WHERE check_at <= :now ORDER BY check_at LIMIT :limit
        """),
        {"now": now, "limit": limit},
    )
    return [DueCheck(row.clinic_id, row.patient_id, row.check_at) for row in rows]


async def next_check_at(connection: AsyncConnection) -> datetime | None:
    """When the earliest check is due."""
    found: datetime | None = await connection.scalar(sa.text("SELECT min(check_at) FROM two_z"))
    return found


async def lock_checks(
    connection: AsyncConnection, checks: Sequence[DueCheck], now: datetime
) -> list[DueCheck]:
    """Those of the checks that are still due and that nobody else holds, locked, earliest first."""
    # LATERAL is one look a check, where a join may read all that is due; by the key, since no other index
    # can serve a condition on an expression.
    rows = await connection.execute(
        sa.text("""
            SELECT t.clinic_id, t.patient_id, t.check_at
            FROM unnest(CAST(:clinics AS uuid[]), CAST(:patients AS uuid[]))
                AS u (clinic_id, patient_id)
            CROSS JOIN LATERAL (
                SELECT clinic_id, patient_id, check_at FROM two_z
                WHERE clinic_id = u.clinic_id AND patient_id = u.patient_id
                    AND coalesce(check_at, 'infinity') <= :now
                FOR UPDATE SKIP LOCKED
            ) AS t
        """),
        {
            "clinics": [check.clinic_id for check in checks],
            "patients": [check.patient_id for check in checks],
            "now": now,
        },
    )
    locked = [DueCheck(row.clinic_id, row.patient_id, row.check_at) for row in rows]
    return sorted(locked, key=lambda check: (check.check_at, check.clinic_id, check.patient_id))


async def save_next_checks(
    connection: AsyncConnection,
    checks: Sequence[tuple[uuid.UUID, uuid.UUID, datetime | None]],
) -> None:
    """Stores when locked rows are due again; None until a new fact asks."""
    await connection.execute(
        sa.text("""
            UPDATE two_z AS t SET check_at = u.check_at
            FROM unnest(
                CAST(:clinics AS uuid[]), CAST(:patients AS uuid[]), CAST(:times AS timestamptz[])
            ) AS u (clinic_id, patient_id, check_at)
            WHERE t.clinic_id = u.clinic_id AND t.patient_id = u.patient_id
        """),
        _arrays(checks),
    )


def _arrays(
    checks: Sequence[tuple[uuid.UUID, uuid.UUID, datetime | None]],
) -> dict[str, list[object]]:
    return {
        "clinics": [clinic_id for clinic_id, _, _ in checks],
        "patients": [patient_id for _, patient_id, _ in checks],
        "times": [at for _, _, at in checks],
    }
