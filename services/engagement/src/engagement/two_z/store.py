"""Rows of the 2Z rule: checks to be made, the facts that decide, releases, the statement.

Lock order: patient, messages, `two_z`, tasks. Whoever changes tasks takes the patient's `two_z` row
first. The repair holds that row while it reads the facts, and every change of a fact touches the
row in its own transaction: a check therefore either sees the change or is asked for again by it.
"""

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.two_z.domain import (
    ACTIVE_STATUSES,
    LOST_STATUSES,
    Facts,
    LastVisit,
    PreviousTask,
)
from engagement.two_z.tables import release

Pair = tuple[uuid.UUID, uuid.UUID]


@dataclass(frozen=True, slots=True)
class DueCheck:
    """A patient who is to be looked at since `check_at`."""

    clinic_id: uuid.UUID
    patient_id: uuid.UUID
    check_at: datetime


_ASK = sa.text("""
    INSERT INTO two_z AS t (clinic_id, patient_id, check_at)
    SELECT clinic_id, patient_id, min(check_at)
    FROM unnest(CAST(:clinics AS uuid[]), CAST(:patients AS uuid[]), CAST(:times AS timestamptz[]))
        AS u (clinic_id, patient_id, check_at)
    GROUP BY clinic_id, patient_id
    ORDER BY clinic_id, patient_id
    ON CONFLICT (clinic_id, patient_id)
    DO UPDATE SET check_at = least(t.check_at, excluded.check_at)
""")


async def ask_for_checks(
    connection: AsyncConnection, checks: Sequence[tuple[uuid.UUID, uuid.UUID, datetime]]
) -> None:
    """Brings the next check of patients forward to the given times, and locks their rows."""
    if checks:
        await connection.execute(_ASK, _arrays(checks))


async def ask_for_clinics(
    connection: AsyncConnection, clinic_ids: Collection[uuid.UUID], now: datetime
) -> None:
    """Brings the checks of all known patients of clinics forward to now."""
    await connection.execute(
        sa.text("""
            UPDATE two_z SET check_at = least(check_at, :now)
            WHERE clinic_id = ANY (CAST(:clinics AS uuid[]))
        """),
        {"clinics": list(clinic_ids), "now": now},
    )


async def time_zones(
    connection: AsyncConnection, clinic_ids: Collection[uuid.UUID]
) -> dict[uuid.UUID, str]:
    """IANA zones of the clinics that are registered."""
    rows = await connection.execute(
        sa.text(
            "SELECT clinic_id, time_zone FROM clinic WHERE clinic_id = ANY (CAST(:c AS uuid[]))"
        ),
        {"c": list(clinic_ids)},
    )
    return {row.clinic_id: row.time_zone for row in rows}


async def due_checks(connection: AsyncConnection, now: datetime, limit: int) -> list[DueCheck]:
    """The checks that are due, earliest first; sees every clinic with the worker's role."""
    rows = await connection.execute(
        sa.text("""
            SELECT clinic_id, patient_id, check_at FROM two_z
            WHERE check_at <= :now ORDER BY check_at, clinic_id, patient_id LIMIT :limit
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
    rows = await connection.execute(
        sa.text("""
            SELECT t.clinic_id, t.patient_id, t.check_at
            FROM unnest(CAST(:clinics AS uuid[]), CAST(:patients AS uuid[]))
                AS u (clinic_id, patient_id)
            JOIN two_z AS t USING (clinic_id, patient_id)
            WHERE t.check_at <= :now
            ORDER BY t.check_at, t.clinic_id, t.patient_id
            FOR UPDATE OF t SKIP LOCKED
        """),
        {
            "clinics": [check.clinic_id for check in checks],
            "patients": [check.patient_id for check in checks],
            "now": now,
        },
    )
    return [DueCheck(row.clinic_id, row.patient_id, row.check_at) for row in rows]


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


_FACTS = sa.text("""
    SELECT u.clinic_id, u.patient_id, c.time_zone, p.erased_at IS NOT NULL AS is_erased,
        v.visit_id, v.completed_at, v.outcome AS visit_outcome, v.referral_urgency,
        booked.starts_at AS booked_starts_at,
        lost.appointment_id AS lost_appointment_id, lost.status AS lost_status,
        released.released_at, tasks.task_expires_at, tasks.task_count,
        previous.outcome, previous.closed_at, previous.expires_at, previous.escalation
    FROM unnest(CAST(:clinics AS uuid[]), CAST(:patients AS uuid[])) AS u (clinic_id, patient_id)
    LEFT JOIN clinic AS c USING (clinic_id)
    LEFT JOIN patient AS p USING (clinic_id, patient_id)
    LEFT JOIN LATERAL (
        SELECT visit_id, completed_at, outcome, referral_urgency FROM visit
        WHERE clinic_id = u.clinic_id AND patient_id = u.patient_id AND completed_at >= c.live_from
        ORDER BY completed_at DESC, visit_id LIMIT 1
    ) AS v ON true
    LEFT JOIN LATERAL (
        SELECT max(starts_at) AS starts_at FROM appointment
        WHERE clinic_id = u.clinic_id AND patient_id = u.patient_id
            AND status = ANY (CAST(:active AS text[]))
    ) AS booked ON true
    LEFT JOIN LATERAL (
        SELECT appointment_id, status FROM appointment
        WHERE clinic_id = u.clinic_id AND patient_id = u.patient_id
            AND starts_at > v.completed_at AND status = ANY (CAST(:lost AS text[]))
        ORDER BY starts_at DESC, appointment_id LIMIT 1
    ) AS lost ON true
    LEFT JOIN LATERAL (
        SELECT max(released_at) AS released_at FROM release
        WHERE clinic_id = u.clinic_id AND patient_id = u.patient_id
    ) AS released ON true
    LEFT JOIN LATERAL (
        SELECT max(expires_at) FILTER (WHERE outcome IS NULL) AS task_expires_at,
            count(*) AS task_count
        FROM task WHERE clinic_id = u.clinic_id AND patient_id = u.patient_id
    ) AS tasks ON true
    LEFT JOIN LATERAL (
        SELECT outcome, closed_at, expires_at, escalation FROM task
        WHERE clinic_id = u.clinic_id AND patient_id = u.patient_id
        ORDER BY opened_at DESC, task_id LIMIT 1
    ) AS previous ON true
""")


async def facts(connection: AsyncConnection, pairs: Iterable[Pair]) -> list[Facts]:
    """All that decides about each of the patients, in one statement."""
    pairs = list(pairs)
    rows = await connection.execute(
        _FACTS,
        {
            "clinics": [clinic_id for clinic_id, _ in pairs],
            "patients": [patient_id for _, patient_id in pairs],
            "active": list(ACTIVE_STATUSES),
            "lost": list(LOST_STATUSES),
        },
    )
    return [_facts_from_row(row) for row in rows]


async def insert_release(
    connection: AsyncConnection,
    *,
    clinic_id: uuid.UUID,
    release_id: uuid.UUID,
    patient_id: uuid.UUID,
    reason: str,
    approved_by: str,
    recorded_by: str,
    released_at: datetime,
) -> None:
    """Records a release."""
    await connection.execute(
        sa.insert(release).values(
            clinic_id=clinic_id,
            release_id=release_id,
            patient_id=patient_id,
            reason=reason,
            approved_by=approved_by,
            recorded_by=recorded_by,
            released_at=released_at,
        )
    )


async def drop_messages(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    patient_id: uuid.UUID,
    *,
    decision: str,
    now: datetime,
) -> None:
    """Ends the messages of a released patient that have not left.

    One that a gateway may have taken without an answer ends as uncertain: nobody can say it was
    withheld.
    """
    await connection.execute(
        sa.text("""
            UPDATE message SET
                state = CASE WHEN waiting_for = 'answer' THEN 'uncertain' ELSE 'dropped' END,
                reason = 'released', decided_at = :now, decision = CAST(:decision AS jsonb),
                lease_until = NULL, retry_at = NULL, waiting_for = NULL, draft = NULL
            WHERE clinic_id = :clinic_id AND patient_id = :patient_id AND state = 'scheduled'
        """),
        {
            "clinic_id": clinic_id,
            "patient_id": patient_id,
            "now": now,
            "decision": decision,
        },
    )


def _arrays(
    checks: Sequence[tuple[uuid.UUID, uuid.UUID, datetime | None]],
) -> dict[str, list[object]]:
    return {
        "clinics": [clinic_id for clinic_id, _, _ in checks],
        "patients": [patient_id for _, patient_id, _ in checks],
        "times": [at for _, _, at in checks],
    }


def _facts_from_row(row: sa.Row[tuple[object, ...]]) -> Facts:
    return Facts(
        clinic_id=row.clinic_id,
        patient_id=row.patient_id,
        is_erased=row.is_erased,
        time_zone=row.time_zone,
        visit=None
        if row.visit_id is None
        else LastVisit(row.visit_id, row.completed_at, row.visit_outcome, row.referral_urgency),
        booked_starts_at=row.booked_starts_at,
        lost_appointment_id=row.lost_appointment_id,
        lost_status=row.lost_status,
        released_at=row.released_at,
        task_expires_at=row.task_expires_at,
        task_count=row.task_count,
        previous=None
        if row.expires_at is None
        else PreviousTask(row.outcome, row.closed_at, row.expires_at, row.escalation),
    )
