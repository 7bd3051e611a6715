"""A process of the platform under test: `python -m tests.chaos.process SERVICE api|worker`.

Runs the service's own `__main__`, with what a trial needs in it: the defect named by MUTANT, leases
short enough to wait for, commits as slow as CHAOS_SLOW_COMMITS asks for, and an effect that nothing
but the inbox keeps from happening twice: a row in `chaos_effect` for each event handled.
"""

import asyncio
import os
import random
import runpy
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from revisit_events import consumer, intake
from tests.chaos.mutants import MUTANTS

LEASE_SECONDS = 6
LAST_CALL_SECONDS = 2
_NOTE = """
INSERT INTO chaos_effect (clinic_id, source, event_id, type)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[])
"""


def count_effects() -> None:
    """Adds the bare effect to every handler, in its transaction."""
    handle = consumer.handle

    async def counted(
        connection: Any, handlers: Any, order: Any, events: Sequence[Any], now: Any
    ) -> None:
        await handle(connection, handlers, order, events, now)
        await connection.exec_driver_sql(
            _NOTE,
            (
                [event.clinic_id for event in events],
                [event.source for event in events],
                [event.id for event in events],
                [event.type for event in events],
            ),
        )

    consumer.handle = counted


def slow_commits(seconds: float) -> None:
    """Lets some transactions of the intake commit late, long after their rows got their position."""
    publish = intake.publish

    async def publish_and_linger(connection: Any, events: Sequence[Any]) -> None:
        await publish(connection, events)
        if random.random() < 0.5:
            await asyncio.sleep(seconds)

    intake.publish = publish_and_linger  # type: ignore[attr-defined]


def shorten_leases() -> None:
    """Leases end after seconds, so that a trial can wait for what a crash left behind."""
    from engagement.messages import sender

    sender.LEASE = timedelta(seconds=LEASE_SECONDS)
    sender.LAST_CALL = timedelta(seconds=LAST_CALL_SECONDS)


def main(service: str, kind: str) -> None:
    """Prepares the process and becomes the service."""
    count_effects()
    if service == "engagement":
        shorten_leases()
    if linger := os.environ.get("CHAOS_SLOW_COMMITS"):
        slow_commits(float(linger))
    if mutant := os.environ.get("MUTANT"):
        MUTANTS[mutant]()
    sys.argv = [service, kind]
    runpy.run_module(service, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
