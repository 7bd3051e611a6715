"""A batch on its way: each message is called when its channel has room for it, and settled soon after.

A message waits here and not inside its channel, so that the last look (`Confirm`) comes right before
the call: what changed while others were slow is seen. Outcomes are written in small groups as they
come, because each one that a crash catches unwritten is a letter nobody can vouch for.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol
from uuid import UUID

import structlog

from engagement.channels.domain import Outgoing
from engagement.messages.domain import Channel, Outcome, SendResult
from engagement.messages.judge import Ready

# Oldest a look may be at the call.
LOOK_LASTS_SECONDS = 1.0
# A look that was refused by the database is taken again after this.
LOOK_AGAIN_SECONDS = 0.2
# Outcomes that come within this are written together.
LINGER_SECONDS = 0.02

Result = tuple[Ready, SendResult]
Confirm = Callable[[Sequence[Ready]], Awaitable[Mapping[UUID, bool]]]
Call = Callable[[Ready], Awaitable[SendResult]]
Settle = Callable[[Sequence[Result]], Awaitable[None]]

log = structlog.get_logger()


class ChannelPort(Protocol):
    """A way out; never raises for what a provider or a network does."""

    @property
    def places(self) -> int:
        """How many messages it takes side by side."""

    async def send(self, outgoing: Outgoing) -> SendResult:
        """Hands one message in."""

    async def close(self) -> None:
        """Closes the connections."""


class Dispatch:
    """One batch.

    Args:
        confirm: Tells which messages may still leave; one that is missing is somebody else's now.
        call: Calls the provider.
        settle: Writes outcomes.
        linger_seconds: How long outcomes wait for company.
    """

    def __init__(
        self,
        confirm: Confirm,
        call: Call,
        settle: Settle,
        *,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self._confirm = confirm
        self._call = call
        self._settle = settle
        self._linger_seconds = linger_seconds
        self._done: list[Result] = []
        self._is_some_done = asyncio.Event()
        self._are_all_done = asyncio.Event()

    async def run(self, ready: Sequence[Ready], channels: Mapping[Channel, ChannelPort]) -> None:
        """Calls and settles every message.

        Args:
            ready: Marked `sending`.
            channels: The ways out.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._settle_as_they_come())
            try:
                async with asyncio.TaskGroup() as callers:
                    for channel, port in channels.items():
                        queue = _Queue(
                            [one for one in ready if one.channel is channel],
                            self._confirm,
                            port.places,
                        )
                        for _ in range(min(port.places, queue.length)):
                            callers.create_task(self._work(queue))
            finally:
                self._are_all_done.set()
                self._is_some_done.set()

    async def _work(self, queue: "_Queue") -> None:
        """One place of a channel: takes a message whenever it is free."""
        while (looked := await queue.next()) is not None:
            one, may_leave = looked
            if may_leave:
                result = await self._call(one)
            else:
                log.info("message.withdrawn", message_id=str(one.facts.message_id))
                result = SendResult(Outcome.WITHDRAWN, "changed_before_the_call")
            self._done.append((one, result))
            self._is_some_done.set()

    async def _settle_as_they_come(self) -> None:
        while True:
            await self._is_some_done.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._linger_seconds):
                    await self._are_all_done.wait()
            self._is_some_done.clear()
            is_last = self._are_all_done.is_set()
            results, self._done = self._done, []
            if results:
                await self._settle(results)
            if is_last:
                return


class _Queue:
    """The messages of one channel, looked at again a few at a time just before they are called."""

    def __init__(self, ready: Sequence[Ready], confirm: Confirm, size: int) -> None:
        self.length = len(ready)
        self._waiting = deque(ready)
        self._looked: deque[tuple[Ready, bool]] = deque()
        self._looked_at = float("-inf")
        self._confirm = confirm
        self._size = size
        self._looking = asyncio.Lock()

    async def next(self) -> tuple[Ready, bool] | None:
        """The next message and whether it may leave; None at the end."""
        async with self._looking:
            while True:
                if time.monotonic() - self._looked_at > LOOK_LASTS_SECONDS:
                    self._waiting.extendleft(one for one, _ in reversed(self._looked))
                    self._looked.clear()
                if self._looked:
                    return self._looked.popleft()
                if not self._waiting:
                    return None
                await self._look()

    async def _look(self) -> None:
        group = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
        stands = await self._confirm(group)
        self._looked_at = time.monotonic()
        for one in group:
            may_leave = stands.get(one.facts.message_id)
            if may_leave is None:
                log.warning("message.claim_lost", message_id=str(one.facts.message_id))
            else:
                self._looked.append((one, may_leave))
