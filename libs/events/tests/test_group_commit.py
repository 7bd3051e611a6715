"""Requests that share a transaction: each gets its own outcome, whatever becomes of the others."""

import asyncio
from collections.abc import Sequence

import pytest

from revisit_events.group_commit import GroupCommit


class Away(Exception):
    """The database is."""


class Store:
    """Commits numbers; refuses negative ones, and everything while it is away."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.is_away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def commit(self, items: Sequence[int]) -> list[int]:
        self.groups.append(list(items))
        await self.gate.wait()
        if self.is_away:
            raise Away
        if min(items) < 0:
            raise ValueError
        return [item * 10 for item in items]

    def group(
        self, *, max_rows: int = 256, committers: int = 1, patience_seconds: float = 60
    ) -> GroupCommit[int, int]:
        return GroupCommit(
            self.commit,
            size=lambda _: 1,
            is_shared=lambda fault: isinstance(fault, Away),
            max_rows=max_rows,
            committers=committers,
            worth_another=3,
            patience_seconds=patience_seconds,
        )


async def started(*tasks: "asyncio.Task[int]") -> None:
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


async def test_those_that_wait_share_the_next_transaction() -> None:
    store = Store()
    group = store.group()
    store.gate.clear()
    tasks = [asyncio.ensure_future(group.submit(n)) for n in range(5)]
    await started(*tasks)
    store.gate.set()
    assert await asyncio.gather(*tasks) == [0, 10, 20, 30, 40]
    assert store.groups == [[0], [1, 2, 3, 4]]


async def test_second_group_begins_when_enough_wait_for_it() -> None:
    store = Store()
    group = store.group(committers=2)
    store.gate.clear()
    tasks = [asyncio.ensure_future(group.submit(n)) for n in range(3)]
    await started(*tasks)
    assert store.groups == [[0]]
    tasks.append(asyncio.ensure_future(group.submit(3)))
    await started(*tasks)
    assert store.groups == [[0], [3, 1, 2]]
    store.gate.set()
    assert await asyncio.gather(*tasks) == [0, 10, 20, 30]


async def test_nobody_waits_long_behind_a_group_that_is_stuck() -> None:
    store = Store()
    group = store.group(committers=2, patience_seconds=0.01)
    store.gate.clear()
    stuck = asyncio.ensure_future(group.submit(0))
    await started(stuck)
    tasks = [stuck, *(asyncio.ensure_future(group.submit(n)) for n in (1, 2))]
    async with asyncio.timeout(5):
        while len(store.groups) < 2:  # noqa: ASYNC110  # the store tells nobody
            await asyncio.sleep(0.005)
    assert store.groups == [[0], [1, 2]]
    await asyncio.sleep(0.05)
    assert len(store.groups) == 2
    store.gate.set()
    assert await asyncio.gather(*tasks, group.submit(3)) == [0, 10, 20, 30]


async def test_group_is_no_larger_than_allowed() -> None:
    store = Store()
    group = store.group(max_rows=2)
    store.gate.clear()
    tasks = [asyncio.ensure_future(group.submit(n)) for n in range(5)]
    await started(*tasks)
    store.gate.set()
    await asyncio.gather(*tasks)
    assert store.groups == [[0], [1, 2], [3, 4]]


async def test_one_that_fails_harms_no_other() -> None:
    store = Store()
    group = store.group()
    store.gate.clear()
    tasks = [asyncio.ensure_future(group.submit(n)) for n in (0, 1, -1, 3)]
    await started(*tasks)
    store.gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [found[0], found[1], found[3]] == [0, 10, 30]
    assert isinstance(found[2], ValueError)


async def test_fault_that_hits_everybody_is_tried_once() -> None:
    store = Store()
    group = store.group()
    store.gate.clear()
    tasks = [asyncio.ensure_future(group.submit(n)) for n in range(4)]
    await started(*tasks)
    store.is_away = True
    store.gate.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, Away) for one in found)
    assert len(store.groups) == 2
    store.is_away = False
    assert await group.submit(7) == 70


@pytest.mark.parametrize("given_up", [0, 1, 2])
async def test_request_that_is_given_up_takes_nobody_along(given_up: int) -> None:
    store = Store()
    group = store.group()
    store.gate.clear()
    tasks = [asyncio.ensure_future(group.submit(n)) for n in range(4)]
    await started(*tasks)
    tasks[given_up].cancel()
    await asyncio.sleep(0)
    store.gate.set()
    async with asyncio.timeout(5):
        found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[given_up], asyncio.CancelledError)
    assert [one for n, one in enumerate(found) if n != given_up] == [
        n * 10 for n in range(4) if n != given_up
    ]
    assert await group.submit(9) == 90
