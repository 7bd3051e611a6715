"""Deadlines for what waits on the network: nothing hangs, and least of all the end of a process."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog
from aiokafka.errors import KafkaError

T = TypeVar("T")

STOP_GRACE_SECONDS = 5.0
"""How long the piece in hand may still take once the process was told to stop."""

log = structlog.get_logger()


async def finish(work: Coroutine[Any, Any, T], stop: asyncio.Event, seconds: float) -> T:
    """Gives what some work gives, if it comes in time.

    Args:
        work: Waits on the network.
        stop: Once it is set, the work has `STOP_GRACE_SECONDS` left.
        seconds: How long it may take at most.

    Raises:
        TimeoutError: It took too long, and was cancelled.
    """
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and stop.is_set():
            await asyncio.wait({task}, timeout=min(seconds, STOP_GRACE_SECONDS))
        if task.done() and not task.cancelled():
            return task.result()
        raise TimeoutError
    finally:
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def quietly(
    closing: Coroutine[Any, Any, None], *remains: Callable[[], Awaitable[object]]
) -> None:
    """Closes a client, without waiting for a broker that is gone.

    Args:
        closing: Says goodbye to the broker.
        remains: Close what is left open when that takes too long.
    """
    # In a task of its own: the client cancels tasks as it stops and waits for them, and what they raise
    # then is no cancellation of ours. Taken for one, it would end its caller without a word.
    task = asyncio.ensure_future(closing)
    try:
        await asyncio.wait({task}, timeout=STOP_GRACE_SECONDS)
    finally:
        task.cancel()
    (found,) = await asyncio.gather(task, return_exceptions=True)
    if found is None:
        return
    if not isinstance(found, asyncio.CancelledError | TimeoutError | KafkaError | OSError):
        raise found
    log.info("broker.no_goodbye", error=type(found).__name__)
    for close in remains:
        with contextlib.suppress(TimeoutError, KafkaError, OSError):
            async with asyncio.timeout(STOP_GRACE_SECONDS):
                await close()
