"""Rows of the 2Z rule: the facts that decide, releases."""

import uuid
from collections.abc import Collection, Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.two_z.domain import (
    ACTIVE_STATUSES,
    LOST_STATUSES,
    Facts,
    LastVisit,
    PreviousTask,
    first_moment_of_today,
)
from engagement.two_z.tables import BOOKED_UNTIL, release
from revisit_chassis.db import fetch

Pair = tuple[uuid.UUID, uuid.UUID]


async def time_zones(
    connection: AsyncConnection, clinic_ids: Collection[uuid.UUID]
) -> dict[uuid.UUID, str]:
    """IANA zones of the clinics that are registered."""
    rows = await fetch(
        connection,
        "SELECT clinic_id, time_zone FROM clinic WHERE clinic_id = ANY ($1::uuid[])",
        list(clinic_ids),
    )
    return {row.clinic_id: row.time_zone for row in rows}


_FACTS = sa.text(f"""
    SELECT u.clinic_id, u.patient_id, c.time_zone, p.erased_at IS NOT NULL AS is_erased,
        v.visit_id, v.completed_at, v.outcome AS visit_outcome, v.referral_urgency,
        visits.due_completed_at, visits.pending_completed_at, booked.booked_until,
        lost.appointment_id AS lost_appointment_id, lost.status AS lost_status,
        released.released_at, tasks.task_expires_at, tasks.task_count,
        previous.outcome, previous.closed_at, previous.expires_at, previous.escalation
    FROM unnest(
        CAST(:clinics AS uuid[]), CAST(:patients AS uuid[]), CAST(:days AS timestamptz[])
    ) AS u (clinic_id, patient_id, today_since)
    LEFT JOIN clinic AS c USING (clinic_id)
    LEFT JOIN patient AS p USING (clinic_id, patient_id)
    LEFT JOIN LATERAL (
        SELECT visit_id, completed_at, outcome, referral_urgency FROM visit
        WHERE clinic_id = u.clinic_id AND patient_id = u.patient_id AND completed_at >= c.live_from
        ORDER BY completed_at DESC, visit_id LIMIT 1
    ) AS v ON true
    LEFT JOIN LATERAL (
        SELECT max(completed_at) FILTER (WHERE completed_at < u.today_since) AS due_completed_at,
            min(completed_at) FILTER (WHERE completed_at >= u.today_since) AS pending_completed_at
        FROM visit
        WHERE clinic_id = u.clinic_id AND patient_id = u.patient_id AND completed_at >= c.live_from
    ) AS visits ON true
    LEFT JOIN LATERAL (
        SELECT max({BOOKED_UNTIL}) AS booked_until FROM appointment
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
""")  # noqa: S608  # built of constants


async def facts(connection: AsyncConnection, judged_at: Mapping[Pair, datetime]) -> list[Facts]:
    """All that decides about each of the patients at the moment given for them."""
    zones = await time_zones(connection, {clinic_id for clinic_id, _ in judged_at})
    rows = await connection.execute(
        _FACTS,
        {
            "clinics": [clinic_id for clinic_id, _ in judged_at],
            "patients": [patient_id for _, patient_id in judged_at],
            "days": [
                first_moment_of_today(at, zones[clinic_id]) if clinic_id in zones else at
                for (clinic_id, _), at in judged_at.items()
            ],
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


def _facts_from_row(row: sa.Row[tuple[object, ...]]) -> Facts:
    return Facts(
        clinic_id=row.clinic_id,
        patient_id=row.patient_id,
        is_erased=row.is_erased,
        time_zone=row.time_zone,
        visit=None
        if row.visit_id is None
        else LastVisit(row.visit_id, row.completed_at, row.visit_outcome, row.referral_urgency),
        due_completed_at=row.due_completed_at,
        pending_completed_at=row.pending_completed_at,
        booked_until=row.booked_until,
        lost_appointment_id=row.lost_appointment_id,
        lost_status=row.lost_status,
        released_at=row.released_at,
        task_expires_at=row.task_expires_at,
        task_count=row.task_count,
        previous=None
        if row.expires_at is None
        else PreviousTask(row.outcome, row.closed_at, row.expires_at, row.escalation),
    )
