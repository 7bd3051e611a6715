"""The repair as due work: whoever is to be checked is checked, and a broken state is mended.

Runs with the worker's role: it sees which checks are due in all clinics, names the clinics, and
only then reads anything else.
"""

from datetime import datetime

from engagement.checks import store
from engagement.two_z import usecases
from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, set_clinics
from revisit_chassis.failpoint import failpoint

BATCH = 500


class TwoZRepair:
    """Mends broken 2Z states within moments of their deadline or of the change that broke them."""

    name = "two_z_repair"

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run_due(self, clock: Clock) -> int:
        """Checks the patients who are due, earliest first, at most a batch of them.

        Returns:
            How many were checked.
        """
        now = clock.now()
        async with self._database.connect() as connection:
            due = await store.due_checks(connection, now, BATCH)
            if not due:
                return 0
            await set_clinics(connection, {item.clinic_id for item in due})
            locked = await store.lock_checks(connection, due, now)
            judged = [(item, clock.at(item.check_at)) for item in locked]
            checked = await usecases.repair(connection, judged, now)
            failpoint("two_z.before_commit")
        return checked

    async def next_due_at(self) -> datetime | None:
        """When the next check is due."""
        async with self._database.single() as connection:
            return await store.next_check_at(connection)
