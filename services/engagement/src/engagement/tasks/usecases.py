"""What can be done with contact tasks: open them in sets, claim, attempt, finish, let them expire.

Nothing here commits. Every function that changes tasks of a patient first takes the patient's 2Z
row (see `checks.store`), so that the repair and a caller never wait for each other in a circle.
"""

import uuid
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.checks.store import ask_for_checks
from engagement.tasks import store
from engagement.tasks.domain import (
    AttemptResult,
    NewTask,
    Outcome,
    Task,
    TaskNotFoundError,
    attempted,
    finished,
)
from engagement.tasks.store import Closing
from revisit_events.contracts import TaskClosed, TaskOpened
from revisit_events.envelope import Event, new_event
from revisit_events.outbox import publish

SOURCE = "/engagement"
CLAIM_LASTS = timedelta(minutes=30)


async def open_tasks(connection: AsyncConnection, rows: Sequence[NewTask], now: datetime) -> int:
    """Opens those of the tasks that are not there yet.

    Opening the same task again opens nothing, nor does a second task about the next appointment of
    a patient who has one open, nor any task of an erased patient.

    They are opened `now` where a row does not say when.

    Returns:
        How many were opened.
    """
    rows = list({(row.clinic_id, row.task_id): row for row in rows}.values())
    if not rows:
        return 0
    await ask_for_checks(connection, [(row.clinic_id, row.patient_id, now) for row in rows])
    opened = await store.insert_tasks(connection, rows, now)
    await publish(
        connection,
        [_opened(row, now) for row in rows if (row.clinic_id, row.task_id) in opened],
    )
    return len(opened)


async def close_tasks(connection: AsyncConnection, closings: Sequence[Closing]) -> int:
    """Closes open tasks of patients that have lost their reason; the caller holds their 2Z rows."""
    if not closings:
        return 0
    return await _publish_closed(connection, await store.close_of_patients(connection, closings))


async def close_tasks_about(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    patient_id: uuid.UUID,
    subject_id: uuid.UUID,
    *,
    outcome: str,
    now: datetime,
) -> int:
    """Closes the open tasks about one subject of a patient: what they asked is known now."""
    await ask_for_checks(connection, [(clinic_id, patient_id, now)])
    return await _publish_closed(
        connection,
        await store.close_about(connection, clinic_id, subject_id, outcome=outcome, closed_at=now),
    )


async def expire_tasks(
    connection: AsyncConnection, patients: Sequence[tuple[uuid.UUID, uuid.UUID, datetime]]
) -> int:
    """Closes tasks of patients that are out of time at the given moments.

    The caller holds the patients' 2Z rows.
    """
    if not patients:
        return 0
    return await _publish_closed(connection, await store.close_expired(connection, patients))


async def claim_task(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    *,
    reasons: Collection[str],
    by: str,
    now: datetime,
    real_now: datetime,
) -> Task | None:
    """Gives the caller the next best task, which nobody else gets for half an hour of real time."""
    return await store.claim_next(
        connection,
        clinic_id,
        reasons=reasons,
        claimed_by=by,
        now=now,
        real_now=real_now,
        claimed_until=real_now + CLAIM_LASTS,
    )


async def record_attempt(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    task_id: uuid.UUID,
    *,
    result: AttemptResult,
    minutes: int,
    next_at: datetime | None,
    by: str,
    now: datetime,
) -> Task:
    """Records that somebody tried to reach the patient, and puts the task off if they say so.

    Raises:
        TaskNotFoundError: There is no such task.
        TaskClosedError: It is closed.
        SnoozeLimitReachedError: It was put off three times before.
        InvalidSnoozeError: The next time is not between now and the age limit.
    """
    task = await store.lock(connection, clinic_id, task_id)
    if task is None:
        raise TaskNotFoundError
    changed = attempted(task, minutes, next_at, now)
    await store.save(connection, changed)
    await store.insert_attempt(
        connection, changed, result=result, minutes=minutes, made_at=now, made_by=by
    )
    return changed


async def finish_task(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    task_id: uuid.UUID,
    *,
    outcome: Outcome,
    minutes: int,
    call_back_at: datetime | None,
    by: str,
    now: datetime,
) -> tuple[Task, bool]:
    """States what came of a task; every outcome but a call back closes it.

    The patient's 2Z state is checked again at once: without a booking or a release another task
    follows. Gives the task, and whether this changed it.

    Raises:
        TaskNotFoundError: There is no such task.
        TaskClosedError: It is closed with another outcome.
        SnoozeLimitReachedError: A call back was agreed three times before.
        InvalidSnoozeError: The call back is not between now and the age limit.
    """
    found = await store.load(connection, clinic_id, task_id)
    if found is None:
        raise TaskNotFoundError
    await ask_for_checks(connection, [(clinic_id, found.patient_id, now)])
    task = await store.lock(connection, clinic_id, task_id)
    if task is None:
        raise TaskNotFoundError
    changed = finished(task, outcome, by=by, minutes=minutes, call_back_at=call_back_at, now=now)
    if changed is not task:
        await store.save(connection, changed)
        if not changed.is_open:
            await _publish_closed(connection, [changed])
    return changed, changed is not task


async def _publish_closed(connection: AsyncConnection, tasks: Iterable[Task]) -> int:
    events = [_closed(task) for task in tasks]
    await publish(connection, events)
    return len(events)


def _opened(row: NewTask, now: datetime) -> Event[TaskOpened]:
    return new_event(
        TaskOpened(
            task_id=row.task_id,
            patient_id=row.patient_id,
            reason=row.reason,
            subject_id=row.subject_id,
            due_at=row.due_at,
        ),
        source=SOURCE,
        clinic_id=row.clinic_id,
        time=row.opened_at or now,
        sequence=1,
        id=f"{row.task_id}:opened",
    )


def _closed(task: Task) -> Event[TaskClosed]:
    return new_event(
        TaskClosed(
            task_id=task.task_id,
            patient_id=task.patient_id,
            reason=task.reason,
            outcome=task.outcome or "",
            attempts=task.attempts,
            minutes=task.minutes,
        ),
        source=SOURCE,
        clinic_id=task.clinic_id,
        time=task.closed_at or task.opened_at,
        sequence=task.version,
        id=f"{task.task_id}:closed",
    )
