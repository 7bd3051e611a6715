"""The simulated clock of the embedded default: kept on disk, moved by `POST /clock`, in order.

An advance is walked in steps. After each step the platform is let settle: every due piece of work has
fired, every outbox is sent, every consumer has applied it. Within a step each piece of work is judged at
its own due time, so the size of a step decides only how soon the services hear of one another.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from revisit_chassis.clock import SimulatedClock

STEP = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class ClockFile:
    """Where the simulated time outlives the process."""

    path: Path

    def read(self) -> datetime | None:
        """The kept time; none in an empty data folder."""
        if not self.path.exists():
            return None
        return datetime.fromisoformat(json.loads(self.path.read_text())["now"])

    def write(self, now: datetime) -> None:
        """Keeps the time; a crash leaves either the old or the new one."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"now": now.isoformat()}))
        os.replace(fresh, self.path)


class ClockDriver:
    """Moves the simulated clock; one advance at a time.

    Args:
        clock: The clock that the four services share.
        file: Keeps the time.
        settle: Waits until all work due by now has fired and every group has caught up.
    """

    def __init__(
        self, clock: SimulatedClock, file: ClockFile, settle: Callable[[], Awaitable[None]]
    ) -> None:
        self._clock = clock
        self._file = file
        self._settle = settle
        self._lock = asyncio.Lock()

    def now(self) -> datetime:
        """The simulated time."""
        return self._clock.now()

    async def advance(self, by: timedelta) -> datetime:
        """Moves the clock forward and answers when everything due up to then has happened.

        Args:
            by: How far, not negative; zero only lets the platform settle.
        """
        async with self._lock:
            await self._settle()
            target = self._clock.now() + by
            while (start := self._clock.now()) < target:
                end = min(start + STEP, target)
                self._clock.set(end, step_from=start)
                self._file.write(end)
                await self._settle()
            return target
