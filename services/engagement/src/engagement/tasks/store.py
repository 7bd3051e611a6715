"""Rows of contact tasks: opening and closing in sets, one task with its lock, pages, claims."""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.tasks.domain import CLOSED_BY_BOOKING, EXPIRED, NewTask, Task
from engagement.tasks.tables import task, task_attempt

PLATFORM = "platform"
"""Who closed a task that closed by itself."""


@dataclass(frozen=True, slots=True)
class Closing:
    """Open tasks of one patient that have lost their reason.

    Args:
        is_all: Every open task; otherwise those about the next appointment only.
    """

    clinic_id: uuid.UUID
    patient_id: uuid.UUID
    outcome: str
    closed_at: datetime
    is_all: bool


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks of a clinic are wanted; None leaves a question open."""

    is_open: bool | None = True
    reason: str | None = None
    patient_id: uuid.UUID | None = None
    due_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class ExpiredTask:
    """An open task that is out of time."""

    clinic_id: uuid.UUID
    patient_id: uuid.UUID
    task_id: uuid.UUID
    expires_at: datetime


# An erased patient is never to be contacted again; a stub (no patient row) may be.
_INSERT = sa.text("""
    INSERT INTO task (
        clinic_id, task_id, patient_id, reason, subject_id, escalation, priority,
        opened_at, due_at, next_at, expires_at
    )
    SELECT u.clinic_id, u.task_id, u.patient_id, u.reason, u.subject_id, u.escalation, u.priority,
        u.opened_at, u.due_at, u.next_at, u.expires_at
    FROM unnest(
        CAST(:clinics AS uuid[]), CAST(:ids AS uuid[]), CAST(:patients AS uuid[]),
        CAST(:reasons AS text[]), CAST(:subjects AS uuid[]), CAST(:escalations AS smallint[]),
        CAST(:priorities AS smallint[]), CAST(:opened AS timestamptz[]),
        CAST(:due AS timestamptz[]), CAST(:next AS timestamptz[]), CAST(:expires AS timestamptz[])
    ) AS u (
        clinic_id, task_id, patient_id, reason, subject_id, escalation, priority,
        opened_at, due_at, next_at, expires_at
    )
    WHERE NOT EXISTS (
        SELECT FROM patient AS p WHERE p.clinic_id = u.clinic_id
            AND p.patient_id = u.patient_id AND p.erased_at IS NOT NULL
    )
    ORDER BY u.clinic_id, u.task_id
    ON CONFLICT DO NOTHING
    RETURNING clinic_id, task_id
""")


async def insert_tasks(
    connection: AsyncConnection, rows: Sequence[NewTask], now: datetime
) -> set[tuple[uuid.UUID, uuid.UUID]]:
    """Inserts the tasks that are not there yet and gives their keys."""
    inserted = await connection.execute(
        _INSERT,
        {
            "clinics": [row.clinic_id for row in rows],
            "ids": [row.task_id for row in rows],
            "patients": [row.patient_id for row in rows],
            "reasons": [str(row.reason) for row in rows],
            "subjects": [row.subject_id for row in rows],
            "escalations": [row.escalation for row in rows],
            "priorities": [row.priority for row in rows],
            "opened": [row.opened_at or now for row in rows],
            "due": [row.due_at for row in rows],
            "next": [row.not_before or row.due_at for row in rows],
            "expires": [row.expires_at for row in rows],
        },
    )
    return {(row.clinic_id, row.task_id) for row in inserted}


_CLOSE = sa.text(f"""
    UPDATE task AS t SET outcome = u.outcome, closed_at = u.closed_at, closed_by = '{PLATFORM}',
        claimed_by = NULL, claimed_until = NULL, version = t.version + 1
    FROM unnest(
        CAST(:clinics AS uuid[]), CAST(:patients AS uuid[]), CAST(:outcomes AS text[]),
        CAST(:times AS timestamptz[]), CAST(:all AS boolean[])
    ) AS u (clinic_id, patient_id, outcome, closed_at, is_all)
    WHERE t.clinic_id = u.clinic_id AND t.patient_id = u.patient_id AND t.outcome IS NULL
        AND (u.is_all OR t.reason = ANY (CAST(:about_next AS text[])))
    RETURNING t.*
""")  # noqa: S608  # PLATFORM is a constant of this module


async def close_of_patients(connection: AsyncConnection, closings: Sequence[Closing]) -> list[Task]:
    """Closes open tasks of patients, at most one entry a patient, and gives what was closed."""
    rows = await connection.execute(
        _CLOSE,
        {
            "clinics": [closing.clinic_id for closing in closings],
            "patients": [closing.patient_id for closing in closings],
            "outcomes": [closing.outcome for closing in closings],
            "times": [closing.closed_at for closing in closings],
            "all": [closing.is_all for closing in closings],
            "about_next": sorted(CLOSED_BY_BOOKING),
        },
    )
    return [_task_from_row(row) for row in rows]


async def close_about(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    subject_id: uuid.UUID,
    *,
    outcome: str,
    closed_at: datetime,
) -> list[Task]:
    """Closes the open tasks about one subject and gives them."""
    rows = await connection.execute(
        sa.update(task)
        .where(
            task.c.clinic_id == clinic_id,
            task.c.subject_id == subject_id,
            task.c.outcome.is_(None),
        )
        .values(
            outcome=outcome,
            closed_at=closed_at,
            closed_by=PLATFORM,
            claimed_by=None,
            claimed_until=None,
            version=task.c.version + 1,
        )
        .returning(task)
    )
    return [_task_from_row(row) for row in rows]


async def expired_tasks(
    connection: AsyncConnection, now: datetime, limit: int
) -> list[ExpiredTask]:
    """Open tasks out of time, earliest first; sees every clinic with the worker's role."""
    rows = await connection.execute(
        sa.text("""
            SELECT clinic_id, patient_id, task_id, expires_at FROM task
            WHERE outcome IS NULL AND expires_at <= :now
            ORDER BY expires_at, clinic_id, task_id LIMIT :limit
        """),
        {"now": now, "limit": limit},
    )
    return [ExpiredTask(row.clinic_id, row.patient_id, row.task_id, row.expires_at) for row in rows]


async def next_expiry_at(connection: AsyncConnection) -> datetime | None:
    """When the next open task runs out of time."""
    found: datetime | None = await connection.scalar(
        sa.text("SELECT min(expires_at) FROM task WHERE outcome IS NULL")
    )
    return found


async def close_expired(
    connection: AsyncConnection, pairs: Sequence[tuple[uuid.UUID, uuid.UUID, datetime]]
) -> list[Task]:
    """Closes the open tasks of patients that are out of time at the given moments."""
    rows = await connection.execute(
        sa.text(f"""
            UPDATE task AS t SET outcome = '{EXPIRED}', closed_at = t.expires_at,
                closed_by = '{PLATFORM}', claimed_by = NULL, claimed_until = NULL,
                version = t.version + 1
            FROM unnest(
                CAST(:clinics AS uuid[]), CAST(:patients AS uuid[]), CAST(:times AS timestamptz[])
            ) AS u (clinic_id, patient_id, at)
            WHERE t.clinic_id = u.clinic_id AND t.patient_id = u.patient_id
                AND t.outcome IS NULL AND t.expires_at <= u.at
            RETURNING t.*
        """),  # noqa: S608  # constants of this code base
        {
            "clinics": [clinic_id for clinic_id, _, _ in pairs],
            "patients": [patient_id for _, patient_id, _ in pairs],
            "times": [at for _, _, at in pairs],
        },
    )
    return [_task_from_row(row) for row in rows]


async def load(
    connection: AsyncConnection, clinic_id: uuid.UUID, task_id: uuid.UUID
) -> Task | None:
    """A task without a lock."""
    row = (await connection.execute(_one(clinic_id, task_id))).one_or_none()
    return None if row is None else _task_from_row(row)


async def lock(
    connection: AsyncConnection, clinic_id: uuid.UUID, task_id: uuid.UUID
) -> Task | None:
    """A task that nobody else can change until this transaction ends."""
    row = (await connection.execute(_one(clinic_id, task_id).with_for_update())).one_or_none()
    return None if row is None else _task_from_row(row)


async def save(connection: AsyncConnection, changed: Task) -> None:
    """Stores what an attempt or an outcome changed, and gives the claim back."""
    await connection.execute(
        sa.update(task)
        .where(task.c.clinic_id == changed.clinic_id, task.c.task_id == changed.task_id)
        .values(
            next_at=changed.next_at,
            attempts=changed.attempts,
            snoozes=changed.snoozes,
            minutes=changed.minutes,
            outcome=changed.outcome,
            closed_at=changed.closed_at,
            closed_by=changed.closed_by,
            version=changed.version,
            claimed_by=None,
            claimed_until=None,
        )
    )


async def insert_attempt(
    connection: AsyncConnection,
    attempted: Task,
    *,
    result: str,
    minutes: int,
    made_at: datetime,
    made_by: str,
) -> None:
    """Records the attempt that the task's counter has just numbered."""
    await connection.execute(
        sa.insert(task_attempt).values(
            clinic_id=attempted.clinic_id,
            task_id=attempted.task_id,
            number=attempted.attempts,
            result=result,
            minutes=minutes,
            made_at=made_at,
            made_by=made_by,
        )
    )


async def claim_next(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    *,
    reasons: Collection[str],
    claimed_by: str,
    now: datetime,
    real_now: datetime,
    claimed_until: datetime,
) -> Task | None:
    """The most pressing task that may be worked and is unclaimed, now claimed; None when there is none.

    Business time (`now`) decides what may be worked, real time (`real_now`) whose claim has run out.
    Without `reasons` a task of any reason will do.
    """
    row = (
        await connection.execute(
            sa.text("""
                UPDATE task SET claimed_by = :claimed_by, claimed_until = :claimed_until
                WHERE clinic_id = :clinic_id AND task_id = (
                    SELECT task_id FROM task
                    WHERE clinic_id = :clinic_id AND outcome IS NULL
                        AND next_at <= :now AND expires_at > :now
                        AND (claimed_until IS NULL OR claimed_until <= :real_now)
                        AND (:is_any OR reason = ANY (CAST(:reasons AS text[])))
                    ORDER BY priority DESC, next_at, task_id
                    FOR UPDATE SKIP LOCKED LIMIT 1
                )
                RETURNING *
            """),
            {
                "clinic_id": clinic_id,
                "claimed_by": claimed_by,
                "claimed_until": claimed_until,
                "now": now,
                "real_now": real_now,
                "is_any": not reasons,
                "reasons": list(reasons),
            },
        )
    ).one_or_none()
    return None if row is None else _task_from_row(row)


async def page(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    wanted: TaskFilter,
    *,
    after: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[Task]:
    """Tasks by due time, after a position."""
    query = sa.select(task).where(task.c.clinic_id == clinic_id)
    if wanted.is_open is not None:
        query = query.where(
            task.c.outcome.is_(None) if wanted.is_open else task.c.outcome.is_not(None)
        )
    if wanted.reason is not None:
        query = query.where(task.c.reason == wanted.reason)
    if wanted.patient_id is not None:
        query = query.where(task.c.patient_id == wanted.patient_id)
    if wanted.due_before is not None:
        query = query.where(task.c.due_at < wanted.due_before)
    if after is not None:
        query = query.where(sa.tuple_(task.c.due_at, task.c.task_id) > sa.tuple_(*after))
    rows = await connection.execute(query.order_by(task.c.due_at, task.c.task_id).limit(limit))
    return [_task_from_row(row) for row in rows]


async def languages(
    connection: AsyncConnection, clinic_id: uuid.UUID, patient_ids: Collection[uuid.UUID]
) -> tuple[str | None, dict[uuid.UUID, str | None]]:
    """The clinic's language and those of patients, for the scripts."""
    clinic_language: str | None = await connection.scalar(
        sa.text("SELECT language FROM clinic WHERE clinic_id = :clinic_id"),
        {"clinic_id": clinic_id},
    )
    rows = await connection.execute(
        sa.text("""
            SELECT patient_id, language FROM patient
            WHERE clinic_id = :clinic_id AND patient_id = ANY (CAST(:patients AS uuid[]))
        """),
        {"clinic_id": clinic_id, "patients": list(patient_ids)},
    )
    return clinic_language, {row.patient_id: row.language for row in rows}


def _one(clinic_id: uuid.UUID, task_id: uuid.UUID) -> sa.Select[tuple[object, ...]]:
    return sa.select(task).where(task.c.clinic_id == clinic_id, task.c.task_id == task_id)


def _task_from_row(row: sa.Row[tuple[object, ...]]) -> Task:
    return Task(
        clinic_id=row.clinic_id,
        task_id=row.task_id,
        patient_id=row.patient_id,
        reason=row.reason,
        subject_id=row.subject_id,
        escalation=row.escalation,
        opened_at=row.opened_at,
        due_at=row.due_at,
        next_at=row.next_at,
        expires_at=row.expires_at,
        attempts=row.attempts,
        snoozes=row.snoozes,
        minutes=row.minutes,
        outcome=row.outcome,
        closed_at=row.closed_at,
        closed_by=row.closed_by,
        version=row.version,
    )
