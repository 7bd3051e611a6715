"""Work that is due at moments of business time, done by one leader among the workers."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, is_infrastructure_fault
from revisit_chassis.locks import lead

LONGEST_PAUSE_SECONDS = 10.0

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
    failures = 0
    while not stop.is_set():
        try:
            await _lead(kind, clock, database, poll_seconds, stop, activity)
        except Exception as error:  # noqa: BLE001
            failures += 1
            log.warning(
                "schedule.failed",
                work=kind.name,
                error=type(error).__name__,
                infrastructure=is_infrastructure_fault(error),
            )
            pause = min(LONGEST_PAUSE_SECONDS, 0.1 * 2**failures) * random.uniform(0.5, 1)  # noqa: S311
            await _wait(stop, pause)


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
            activity.running += 1
            try:
                done = await kind.run_due(clock)
            finally:
                activity.running -= 1
            activity.done += done
            if done:
                continue
            if connection.invalidated:
                raise ConnectionError("the lock's connection is gone")
            await clock.changed(poll_seconds)

    await lead(database, f"schedule.{kind.name}", work, stop)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
