"""Work that is due at moments of business time, done by one leader among the workers."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.backoff import pause
from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, is_infrastructure_fault
from revisit_chassis.failpoint import failpoint
from revisit_chassis.health import Check
from revisit_chassis.locks import is_lost, lead
from revisit_chassis.metrics import SCHEDULE_FAULTS

FAULTS_UNTIL_RED = 3
"""One fault may be a deadlock or a restart of the database; this many in a row are not."""

log = structlog.get_logger()


class DueWork(Protocol):
    """A kind of work with due times."""

    @property
    def name(self) -> str:
        """Unique in the service."""

    async def run_due(self, clock: Clock) -> int:
        """Does some of what is due, oldest first; gives how many pieces, 0 when none was left."""

    async def next_due_at(self) -> datetime | None:
        """Gives the earliest due time of what is open; none when nothing is."""


@dataclass(slots=True)
class Activity:
    """How busy a schedule is; lets a simulated clock wait until nothing is in hand."""

    running: int = 0
    """Runs under way."""
    done: int = 0
    """Pieces of work done so far."""
    faults: dict[str, int] = field(default_factory=dict)
    """Faults in a row, by kind of work; none since its last success."""


def schedule_check(activity: Activity) -> Check:
    """Gives a check that no kind of work fails again and again.

    Args:
        activity: Of the schedule.
    """

    async def check() -> str | None:
        failing = sorted(
            name for name, faults in activity.faults.items() if faults >= FAULTS_UNTIL_RED
        )
        return f"failing: {', '.join(failing)}" if failing else None

    return check


async def run_schedule(
    work: Sequence[DueWork],
    clock: Clock,
    database: Database,
    *,
    poll_seconds: float,
    stop: asyncio.Event,
    activity: Activity,
) -> None:
    """Runs every kind of work as it gets due, until told to stop.

    Args:
        work: Each kind runs beside the others, under a lock of its own.
        clock: Business time; a jump of it wakes the work up.
        database: Holds the locks.
        poll_seconds: How often to look when nothing was due.
        stop: Ends the loops after the piece in hand.
        activity: Kept up to date.
    """
    async with asyncio.TaskGroup() as group:
        for kind in work:
            group.create_task(_run(kind, clock, database, poll_seconds, stop, activity))


async def _run(
    kind: DueWork,
    clock: Clock,
    database: Database,
    poll_seconds: float,
    stop: asyncio.Event,
    activity: Activity,
) -> None:
    while not stop.is_set():
        try:
            await _lead(kind, clock, database, poll_seconds, stop, activity)
        except Exception as error:  # noqa: BLE001  (whatever it is, the work is tried again)
            failures = activity.faults[kind.name] = activity.faults.get(kind.name, 0) + 1
            SCHEDULE_FAULTS.labels(kind.name).inc()
            log.warning(
                "schedule.failed",
                work=kind.name,
                attempt=failures,
                error=type(error).__name__,
                infrastructure=is_infrastructure_fault(error),
            )
            await pause(failures, stop)


async def _lead(
    kind: DueWork,
    clock: Clock,
    database: Database,
    poll_seconds: float,
    stop: asyncio.Event,
    activity: Activity,
) -> None:
    async def work(connection: AsyncConnection) -> None:
        while not stop.is_set():
            # Without the lock a standby leads; two leaders would do the same work at the same time.
            if await is_lost(connection):
                raise ConnectionError("the lock's connection is gone")
            activity.running += 1
            try:
                done = await kind.run_due(clock)
            finally:
                activity.running -= 1
            activity.done += done
            activity.faults.pop(kind.name, None)
            if done:
                failpoint("schedule.after_due")
            else:
                await clock.changed(poll_seconds)

    await lead(database, f"schedule.{kind.name}", work, stop)
