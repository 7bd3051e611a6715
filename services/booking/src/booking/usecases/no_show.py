"""The timer that takes an appointment for missed when nobody came (mission B05)."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from booking.domain.appointment import OPEN, miss, missed_at, no_show_due_at
from booking.store import appointments
from booking.usecases.appointments import missed_data
from booking.usecases.recording import event_of, record
from revisit_chassis.clock import Clock
from revisit_chassis.db import Database
from revisit_events.envelope import AnyEvent

BATCH = 500

# Both see all clinics on the two tables that the worker's role may scan. An appointment of a clinic that
# is not registered yet waits: whether it is imported history is not known.
DUE = """
SELECT appointment.clinic_id, appointment_id, no_show_due_at, starts_at < live_from AS is_history
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
        async with self._database.transaction({row.clinic_id for row in rows}) as connection:
            history = [(row.clinic_id, row.appointment_id) for row in rows if row.is_history]
            if history:
                await connection.exec_driver_sql(
                    DISMISS, ([key[0] for key in history], [key[1] for key in history])
                )
            due = [
                (row.clinic_id, row.appointment_id, clock.at(row.no_show_due_at))
                for row in rows
                if not row.is_history
            ]
            await mark_missed(connection, due, now)
        return len(rows)

    async def next_due_at(self) -> datetime | None:
        """When the next appointment falls due; None while there is none."""
        async with self._database.single() as connection:
            due_at: datetime | None = (await connection.exec_driver_sql(NEXT_DUE)).scalar()
        return due_at


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
    for clinic_id, appointment_id, judged_at in due:
        waiting = found.get((clinic_id, appointment_id))
        # Between the scan and the lock the patient may have come, or the appointment been moved.
        if waiting is None or waiting.status not in OPEN or waiting.schedule is None:
            continue
        if no_show_due_at(waiting.schedule.starts_at, waiting.schedule.ends_at) > judged_at:
            continue
        happened_at = missed_at(waiting.schedule, waiting.status_at)
        missed = miss(waiting, "system", happened_at)
        events.append(event_of(clinic_id, missed, missed_data(missed)))
    await record(connection, events, now)
