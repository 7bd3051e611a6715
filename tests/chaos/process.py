"""What a process of the platform under test is made of; the nursery forks it.

Runs the service's own `__main__`, with what a trial needs in it: the defect named by MUTANT, leases
and time-outs short enough to wait for, a transaction that commits late and a handler that fails or
kills on the events marked so, and an effect that nothing but the inbox keeps from happening twice: a
row in `chaos_effect` for each event handled.
"""

import asyncio
import os
import runpy
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from revisit_chassis import db, failpoint, idempotency
from revisit_events import effects, intake, reading
from tests.chaos.mutants import MUTANTS

SESSION_MS = 2_000
PRODUCT_SESSION_MS = reading.SESSION_TIMEOUT_MS
HEARTBEATS = 3
LEASE_SECONDS = 6
LAST_CALL_SECONDS = 2
COMMAND_TIMEOUT_SECONDS = 6
IN_FLIGHT_SECONDS = 2
LATE_SECONDS = 0.8
HANDLER_FAILS = "handler-fails"
"""In the id of an event: no handler can take it."""
HANDLER_KILLS = "handler-kills"
"""In the id of an event: the first process that handles it dies."""
ALWAYS_KILLS = "always-kills"
"""In the id of an event: each process of scoring that handles it dies, and no other handler can take it."""
COMMITS_LATE = "commits-late"
"""In the id of an event: the transaction in which the intake takes it commits late."""
_NOTE = """
INSERT INTO chaos_effect (clinic_id, source, event_id, type)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[])
"""


def count_effects(service: str) -> None:
    """Adds the bare effect to every handler, in its transaction, and the marked faults."""
    handle = effects.handle

    async def counted(
        connection: Any, handlers: Any, order: Any, events: Sequence[Any], now: Any, **how: Any
    ) -> None:
        await handle(connection, handlers, order, events, now, **how)
        for event in events:
            if ALWAYS_KILLS in event.id and service == "scoring":
                os._exit(failpoint.KILLED)
            if HANDLER_FAILS in event.id or ALWAYS_KILLS in event.id:
                raise ValueError("a handler that cannot take this event")
            if HANDLER_KILLS in event.id:
                _die_once(service, event.id)
        await connection.exec_driver_sql(
            _NOTE,
            (
                [event.clinic_id for event in events],
                [event.source for event in events],
                [event.id for event in events],
                [event.type for event in events],
            ),
        )

    effects.handle = counted


def _die_once(service: str, event_id: str) -> None:
    """Ends the process unless another one of the service died of this event before.

    One that kills each time is buried in the end (`revisit_events.attempts`); this one is to be applied.
    """
    mark = Path(os.environ["CHAOS_FOLDER"]) / f"{service}-{event_id}.died"
    if not mark.exists():
        mark.touch()
        os._exit(failpoint.KILLED)


def commit_late() -> None:
    """Lets the marked transactions of the intake commit long after their rows got their positions."""

    def lingering(publish: Callable[[Any, Sequence[Any]], Awaitable[Any]]) -> Any:
        async def publish_and_linger(connection: Any, events: Sequence[Any]) -> Any:
            fresh = await publish(connection, events)
            if any(COMMITS_LATE in event.id for event in fresh):
                await asyncio.sleep(LATE_SECONDS)
            return fresh

        return publish_and_linger

    intake._take = lingering(intake._take)
    intake._claim_and_publish = lingering(intake._claim_and_publish)


def shorten_waits() -> None:
    """Leases and time-outs end after seconds, so that a trial can wait for what a fault left behind.

    A group waits for a member that died as long as its session lasts, and the embedded broker answers a
    join in steps of it besides: with the product's six seconds a consumer is back after eleven, with two
    after four.
    """
    from engagement.messages import sender

    reading.SESSION_TIMEOUT_MS = int(os.environ["CHAOS_SESSION_MS"])
    reading.HEARTBEAT_MS = reading.SESSION_TIMEOUT_MS // HEARTBEATS
    db.COMMAND_TIMEOUT_SECONDS = COMMAND_TIMEOUT_SECONDS
    idempotency.IN_FLIGHT_SECONDS = IN_FLIGHT_SECONDS
    sender.LEASE = timedelta(seconds=LEASE_SECONDS)
    sender.LAST_CALL = timedelta(seconds=LAST_CALL_SECONDS)


def main(service: str, kind: str) -> None:
    """Prepares the process and becomes the service."""
    # The nursery imported it before there was anything to read.
    failpoint._name, _, failpoint._count = os.environ["FAILPOINT"].partition(":")
    count_effects(service)
    shorten_waits()
    commit_late()
    if mutant := os.environ.get("MUTANT"):
        MUTANTS[mutant]()
    sys.argv = [service, kind]
    runpy.run_module(service, run_name="__main__", alter_sys=True)
