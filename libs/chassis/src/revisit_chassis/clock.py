"""Business time, injected everywhere: the system's, a simulated one, or one followed over HTTP."""

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Protocol

import httpx
import structlog

FOLLOW_SECONDS = 0.1

log = structlog.get_logger()


class Clock(Protocol):
    """What asks for business time."""

    @property
    def is_simulated(self) -> bool:
        """Whether time moves only when somebody moves it."""

    def now(self) -> datetime:
        """Gives the time, in UTC."""

    def at(self, due_at: datetime) -> datetime:
        """Gives the moment at which work that was due is judged.

        On the system's clock that is now; on a simulated one the due time itself, so that a jump over
        a week decides as if each hour had passed.
        """

    async def changed(self, timeout_seconds: float) -> None:
        """Waits until time jumps, or for the timeout."""


class SystemClock:
    """The machine's time."""

    is_simulated = False

    def now(self) -> datetime:
        """Gives the time, in UTC."""
        return datetime.now(UTC)

    def at(self, due_at: datetime) -> datetime:  # noqa: ARG002
        """Gives now: work is judged when it is done."""
        return self.now()

    async def changed(self, timeout_seconds: float) -> None:
        """Waits for the timeout: the system's clock does not jump."""
        await asyncio.sleep(timeout_seconds)


class SimulatedClock:
    """Time that stands still until it is set.

    Args:
        start: The first moment, with a time zone.
    """

    is_simulated = True

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)
        self._step_from = self._now
        self._jump = asyncio.Event()

    def now(self) -> datetime:
        """Gives the time, in UTC."""
        return self._now

    def at(self, due_at: datetime) -> datetime:
        """Gives the due time, but not before the running step and not after now."""
        return min(max(due_at, self._step_from), self._now)

    def set(self, now: datetime, step_from: datetime | None = None) -> None:
        """Moves the clock.

        Args:
            now: The new time, not before the old one.
            step_from: Where the step begins; the old time when left out.

        Raises:
            ValueError: The time would go backwards.
        """
        if now < self._now:
            raise ValueError("the clock never goes backwards")
        self._step_from = (step_from or self._now).astimezone(UTC)
        self._now = now.astimezone(UTC)
        self.nudge()

    def nudge(self) -> None:
        """Wakes whoever waits for the clock, though it has not moved."""
        jump, self._jump = self._jump, asyncio.Event()
        jump.set()

    async def changed(self, timeout_seconds: float) -> None:
        """Waits until the clock is set, or for the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._jump.wait()


class FollowedClock(SimulatedClock):
    """A simulated clock that another process moves.

    Args:
        url: Answers `{"now": "..."}`.
        start: Counts until the first answer.
    """

    def __init__(self, url: str, start: datetime) -> None:
        super().__init__(start)
        self._url = url

    async def run(self) -> None:
        """Follows until it is cancelled; a clock that cannot be reached or read stands still."""
        is_followed = True
        async with httpx.AsyncClient(timeout=2) as client:
            while True:
                try:
                    await self.follow(client)
                    is_followed = True
                except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                    # Said once an outage: this loop turns ten times a second.
                    if is_followed:
                        log.warning("clock.not_followed", error=type(error).__name__)
                    is_followed = False
                await asyncio.sleep(FOLLOW_SECONDS)

    async def follow(self, client: httpx.AsyncClient) -> None:
        """Asks once.

        Args:
            client: Asks with it.

        Raises:
            httpx.HTTPError: The clock cannot be reached.
            ValueError: The answer is no JSON or no time.
            KeyError: It holds no time.
            TypeError: It is of another form, or the time has no offset.
        """
        answer = await client.get(self._url)
        answer.raise_for_status()
        now = datetime.fromisoformat(answer.json()["now"])
        if now > self.now():
            self.set(now)
