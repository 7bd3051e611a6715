"""The bell between relays and consumers of one process."""

import asyncio
import time

import pytest

from revisit_events.arrivals import Arrivals

pytestmark = pytest.mark.pure
LONG_SECONDS = 30.0
VISITS, TASKS = ("visit.completed", 0), ("task.opened", 0)


def test_group_is_done_when_it_has_read_past_all_that_was_sent_to_its_topics() -> None:
    arrivals = Arrivals()
    assert arrivals.are_applied(["visit.completed"], {})
    arrivals.sent({VISITS: 6, TASKS: 2})
    assert not arrivals.are_applied(["visit.completed"], {VISITS: 6})
    assert arrivals.are_applied(["visit.completed"], {VISITS: 7})
    assert arrivals.are_applied(["survey.answered"], {})
    # An acknowledgement that is noted late takes nothing back.
    arrivals.sent({VISITS: 3})
    assert not arrivals.are_applied(["visit.completed"], {VISITS: 5})


async def test_wait_ends_with_what_is_sent_with_the_stop_or_with_its_time() -> None:
    arrivals, stop = Arrivals(), asyncio.Event()
    loop, started = asyncio.get_running_loop(), time.monotonic()
    await arrivals.next(stop, 0.01)
    loop.call_later(0.01, arrivals.sent, {VISITS: 1})
    await arrivals.next(stop, LONG_SECONDS)
    loop.call_later(0.01, stop.set)
    await arrivals.next(stop, LONG_SECONDS)
    assert time.monotonic() - started < LONG_SECONDS
