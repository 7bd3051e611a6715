"""The bell between relays and consumers of one process."""

import asyncio
import time

import pytest

from revisit_events.arrivals import Arrivals

pytestmark = pytest.mark.pure
LONG_SECONDS = 30.0
VISITS, TASKS = ("visit.completed", 0), ("task.opened", 0)


def test_newest_is_what_any_relay_has_had_acknowledged_and_follows_them() -> None:
    first, second = {VISITS: 6}, {VISITS: 9, TASKS: 2}
    arrivals = Arrivals([first, second])
    assert arrivals.newest() == {VISITS: 9, TASKS: 2}
    # A relay that notices a new log forgets the offsets of the old one.
    second.clear()
    assert arrivals.newest() == {VISITS: 6}


async def test_wait_ends_with_what_is_sent_with_the_stop_or_with_its_time() -> None:
    stop, loop, started = asyncio.Event(), asyncio.get_running_loop(), time.monotonic()
    await Arrivals([], rest_seconds=0.01).next(stop)
    arrivals = Arrivals([], rest_seconds=LONG_SECONDS)
    loop.call_later(0.01, arrivals.ring)
    await arrivals.next(stop)
    loop.call_later(0.01, stop.set)
    await arrivals.next(stop)
    assert time.monotonic() - started < LONG_SECONDS
