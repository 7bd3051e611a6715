"""Group commit: requests that wait together share one transaction.

There is no background task: a request that finds a free committer leads, takes along what waits,
and hands the lead to the next one that waits when it is done.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Lead:
    """Tells one that waited that it is its turn to commit."""


_LEAD = _Lead()
_Waiting = tuple[T, asyncio.Future[R | _Lead]]


class GroupCommit(Generic[T, R]):
    """Collects items and commits them in groups.

    Args:
        commit: Commits a group in one transaction and gives the outcome of each item in order.
        size: Rows of an item.
        is_shared: Says whether a fault hits everybody (the database is away), so that trying each
            item alone would be in vain.
        max_rows: Rows of a group at most; a larger item goes alone.
        committers: Groups under way at once. With two of them, however large, all that there is to do is in
            the database a quarter of the time, and nothing is prepared meanwhile (measured).
        worth_another: Rows that have to wait before a further group begins: a few are cheaper, and sooner
            done, in the group after the present one.
        patience_seconds: How long they wait for that: a group may be stuck behind somebody's lock.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        *,
        size: Callable[[T], int],
        is_shared: Callable[[BaseException], bool],
        max_rows: int = 256,
        committers: int = 4,
        worth_another: int = 16,
        patience_seconds: float = 0.05,
    ) -> None:
        self._commit = commit
        self._size = size
        self._is_shared = is_shared
        self._max_rows = max_rows
        self._committers = committers
        self._free = committers
        self._worth_another = worth_another
        self._patience_seconds = patience_seconds
        self._waiting: deque[_Waiting[T, R]] = deque()

    async def submit(self, item: T) -> R:
        """Gives the outcome of an item once the transaction it was part of is committed.

        Raises:
            Exception: What the item's own transaction failed with.
        """
        if self._may_lead(item):
            self._free -= 1
        else:
            loop = asyncio.get_running_loop()
            turn: asyncio.Future[R | _Lead] = loop.create_future()
            if not self._waiting:
                loop.call_later(self._patience_seconds, self._lose_patience)
            self._waiting.append((item, turn))
            try:
                outcome = await turn
            except asyncio.CancelledError:
                if _is_given_the_lead(turn):
                    self._pass_on()
                raise
            if not isinstance(outcome, _Lead):
                return outcome
        return await self._lead(item)

    def _may_lead(self, item: T) -> bool:
        if not self._free:
            return False
        if self._free == self._committers:
            return True
        rows = self._size(item) + sum(self._size(other) for other, _ in self._waiting)
        return rows >= self._worth_another

    def _lose_patience(self) -> None:
        if self._free and self._waiting:
            self._free -= 1
            self._pass_on()

    async def _lead(self, item: T) -> R:
        followers = self._followers(self._max_rows - self._size(item))
        try:
            return await self._commit_group(item, followers)
        except asyncio.CancelledError:
            # The others start anew; what was committed all the same is a repeat then.
            self._waiting.extendleft(reversed(followers))
            raise
        finally:
            self._pass_on()

    async def _commit_group(self, item: T, followers: Sequence[_Waiting[T, R]]) -> R:
        try:
            outcomes = await self._commit([item, *(other for other, _ in followers)])
        except Exception as fault:
            if not followers:
                raise
            if self._is_shared(fault):
                for _, turn in followers:
                    _settle(turn, fault)
                raise
        else:
            for (_, turn), outcome in zip(followers, outcomes[1:], strict=True):
                _settle(turn, outcome)
            return outcomes[0]
        for other, turn in followers:
            _settle(turn, await self._alone(other))
        return (await self._commit([item]))[0]

    async def _alone(self, item: T) -> R | Exception:
        try:
            return (await self._commit([item]))[0]
        except Exception as fault:  # noqa: BLE001  # handed to the one who waits for it
            return fault

    def _followers(self, rows: int) -> list[_Waiting[T, R]]:
        found: list[_Waiting[T, R]] = []
        while self._waiting:
            item, turn = self._waiting[0]
            if turn.done():
                self._waiting.popleft()
                continue
            rows -= self._size(item)
            if rows < 0:
                break
            found.append(self._waiting.popleft())
        return found

    def _pass_on(self) -> None:
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(_LEAD)
                return
        self._free += 1


def _settle(turn: asyncio.Future[R | _Lead], outcome: R | Exception) -> None:
    if turn.done():  # given up by the request that waited
        return
    if isinstance(outcome, Exception):
        turn.set_exception(outcome)
    else:
        turn.set_result(outcome)


def _is_given_the_lead(turn: asyncio.Future[R | _Lead]) -> bool:
    return (
        turn.done() and not turn.cancelled() and turn.exception() is None and turn.result() is _LEAD
    )
