"""The timer that takes an appointment for missed when nobody came (mission B05)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from booking.domain.appointment import OPEN, SYSTEM, miss, missed_at, no_show_due_at
from booking.store import appointments, patients
from booking.store.rows import Key
from booking.usecases.appointments import missed_data
from booking.usecases.recording import event_of, record
from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, is_infrastructure_fault
from revisit_chassis.failpoint import failpoint
from revisit_events.envelope import AnyEvent

BATCH = 500

log = structlog.get_logger()

# Both see all clinics on the two tables that the worker's role may scan. An appointment of a clinic that
# is not registered yet waits: whether it is imported history is not known.
DUE = """
SELECT appointment.clinic_id, appointment_id, patient_id, no_show_due_at, starts_at < live_from AS is_history
FROM appointment JOIN clinic USING (clinic_id)
WHERE status IN ('booked', 'confirmed') AND no_show_due_at <= $1
ORDER BY no_show_due_at, appointment.clinic_id, appointment_id
LIMIT $2
"""
NEXT_DUE = """
SELECT no_show_due_at FROM appointment JOIN clinic USING (clinic_id)
WHERE status IN ('booked', 'confirmed') AND no_show_due_at IS NOT NULL
ORDER BY no_show_due_at LIMIT 1
"""
DISMISS = """
UPDATE appointment SET no_show_due_at = NULL
FROM unnest($1::uuid[], $2::uuid[]) AS history (clinic_id, appointment_id)
WHERE appointment.clinic_id = history.clinic_id
  AND appointment.appointment_id = history.appointment_id
"""


class NoShowTimer:
    """Due work: marks what was missed, once each, in the order in which it fell due.

    Args:
        database: Opened as the worker's role.
    """

    name = "booking.no_show"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_due(self, clock: Clock) -> int:
        """Judges one batch of what is due.

        Args:
            clock: Says when each is judged.

        Returns:
            How many appointments were judged.
        """
        now = clock.now()
        async with self._database.connect() as connection:
            rows = (await connection.exec_driver_sql(DUE, (now, BATCH))).all()
        if not rows:
            return 0
        try:
            await self._judge(rows, clock, now)
        except Exception as error:
            if is_infrastructure_fault(error):
                raise
            log.warning("no_show.batch_failed", error=type(error).__name__)
            await self._judge_one_by_one(rows, clock, now)
        return len(rows)

    async def _judge_one_by_one(
        self, rows: Sequence[Row[Any]], clock: Clock, now: datetime
    ) -> None:
        """Judges each for itself; one that fails even so is given up, or it would stop all behind it."""
        for row in rows:
            try:
                await self._judge([row], clock, now)
            except Exception as error:
                if is_infrastructure_fault(error):
                    raise
                log.exception(
                    "no_show.given_up",
                    clinic_id=row.clinic_id,
                    appointment_id=row.appointment_id,
                )
                async with self._database.transaction([row.clinic_id]) as connection:
                    await _dismiss(connection, [(row.clinic_id, row.appointment_id)])

    async def _judge(self, rows: Sequence[Row[Any]], clock: Clock, now: datetime) -> None:
        async with self._database.transaction({row.clinic_id for row in rows}) as connection:
            erased = await patients.erased(
                connection, {(row.clinic_id, row.patient_id) for row in rows}
            )
            # Of history nothing is told; of an erased patient nobody knows whether they came.
            passed_over = {
                (row.clinic_id, row.appointment_id)
                for row in rows
                if row.is_history or (row.clinic_id, row.patient_id) in erased
            }
            if passed_over:
                # In one go with the others, for each of the two statements has an order of its own.
                meant = [(row.clinic_id, row.appointment_id) for row in rows]
                await appointments.lock_appointments(connection, meant)
            await _dismiss(connection, sorted(passed_over))
            due = [
                (row.clinic_id, row.appointment_id, clock.at(row.no_show_due_at))
                for row in rows
                if (row.clinic_id, row.appointment_id) not in passed_over
            ]
            await mark_missed(connection, due, now)
            failpoint("no_show.before_commit")

    async def next_due_at(self) -> datetime | None:
        """When the next appointment falls due; None while there is none."""
        async with self._database.single() as connection:
            due_at: datetime | None = (await connection.exec_driver_sql(NEXT_DUE)).scalar()
        return due_at


async def _dismiss(connection: AsyncConnection, keys: Sequence[Key]) -> None:
    if keys:
        await connection.exec_driver_sql(
            DISMISS, ([key[0] for key in keys], [key[1] for key in keys])
        )


async def mark_missed(
    connection: AsyncConnection, due: Sequence[tuple[UUID, UUID, datetime]], now: datetime
) -> None:
    """Marks those of the appointments that still wait for their patient.

    Args:
        connection: Inside a transaction of the clinics.
        due: Clinic, appointment, and the moment at which each is judged.
        now: Moment of the batch.
    """
    found = await appointments.lock_appointments(connection, [key[:2] for key in due])
    events: list[AnyEvent] = []
    guesses: list[tuple[Key, str, str]] = []
    for clinic_id, appointment_id, judged_at in due:
        waiting = found.get((clinic_id, appointment_id))
        # Between the scan and the lock the patient may have come, or the appointment been moved.
        if waiting is None or waiting.status not in OPEN or waiting.schedule is None:
            continue
        starts_at, ends_at = waiting.schedule.starts_at, waiting.schedule.ends_at
        if no_show_due_at(starts_at, ends_at) > judged_at:
            continue
        happened_at = missed_at(waiting.schedule, waiting.status_at)
        missed = miss(waiting, SYSTEM, happened_at)
        event = event_of(clinic_id, missed, missed_data(missed))
        events.append(event)
        guesses.append(((clinic_id, appointment_id), event.precedence, waiting.rests_on))
    await record(connection, events, now)
    await appointments.save_guesses(connection, guesses)
