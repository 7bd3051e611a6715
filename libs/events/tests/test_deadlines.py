"""What waits on the network ends, and never takes its caller along."""

import asyncio

import pytest

from revisit_events.deadlines import finish, quietly


async def stop_like_the_client() -> None:
    """Cancels a task of its own and waits for it, as a consumer does with a fetch not yet begun."""
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task


async def test_cancellation_inside_a_client_is_not_its_callers() -> None:
    closed = []

    async def close_the_rest() -> None:
        closed.append(True)

    await quietly(stop_like_the_client(), close_the_rest)
    assert closed
    with pytest.raises(TimeoutError):
        await finish(stop_like_the_client(), asyncio.Event(), 5)


async def test_cancellation_of_the_caller_ends_the_closing_too() -> None:
    ended = asyncio.Event()

    async def close_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    caller = asyncio.ensure_future(quietly(close_for_ever()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await asyncio.wait_for(ended.wait(), 1)
