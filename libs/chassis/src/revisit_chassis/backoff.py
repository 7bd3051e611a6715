"""Pauses between tries: growing, capped, jittered; the one place for all of them."""

import asyncio
import contextlib
import random

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 10.0
LAST_DOUBLING = 20
"""Past it the cap holds anyway; without it a fault of an hour would overflow the power."""


def pause_seconds(failures: int) -> float:
    """Gives the pause after some failures in a row.

    Args:
        failures: 1 after the first.

    >>> pause_seconds(1_000_000) <= LONGEST_SECONDS
    True
    """
    longest = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures, LAST_DOUBLING))
    return longest * random.uniform(0.5, 1)  # noqa: S311  (no secret)


async def pause(failures: int, stop: asyncio.Event) -> None:
    """Waits before the next try, or until told to stop.

    Args:
        failures: In a row.
        stop: Ends the wait.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(pause_seconds(failures)):
            await stop.wait()
