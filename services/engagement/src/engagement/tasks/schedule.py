"""The age limit as due work: a task that nobody finished in time is closed as expired.

Its patient is checked for the 2Z rule at once, which opens a fresh task with a higher escalation.
"""

from datetime import datetime

from engagement.checks.store import ask_for_checks
from engagement.tasks import store, usecases
from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, set_clinics
from revisit_chassis.failpoint import failpoint

BATCH = 500


class TaskExpiry:
    """Closes tasks that are out of time; runs with the worker's role."""

    name = "task_expiry"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_due(self, clock: Clock) -> int:
        """Closes tasks whose age limit has passed, earliest first, at most a batch of them.

        Returns:
            How many were closed.
        """
        now = clock.now()
        async with self._database.connect() as connection:
            due = await store.expired_tasks(connection, now, BATCH)
            if not due:
                return 0
            await set_clinics(connection, {item.clinic_id for item in due})
            patients = {(item.clinic_id, item.patient_id): item.expires_at for item in due}
            rows = [(*pair, expires_at) for pair, expires_at in patients.items()]
            await ask_for_checks(connection, rows)
            closed = await usecases.expire_tasks(connection, rows)
            failpoint("task_expiry.before_commit")
        return closed

    async def next_due_at(self) -> datetime | None:
        """When the next open task runs out of time."""
        async with self._database.single() as connection:
            return await store.next_expiry_at(connection)
