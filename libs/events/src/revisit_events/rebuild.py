"""Rebuild of projections from the event log: what a handler made can be made again.

A clinic at a time, in one transaction: the rows of its projections go, and the events that make them are
applied again in order of time; handlers of other events do not run. The consumer must stand still
meanwhile, or it adds to what is being rebuilt: its lock is taken, which every member of the group shares.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Database, fetch
from revisit_chassis.locks import lock_number
from revisit_events.catalog import CATALOG, UPCASTERS, topic_of
from revisit_events.contracts import EventData
from revisit_events.envelope import AnyEvent
from revisit_events.feed import consumer_lock
from revisit_events.handlers import Handlers, handle
from revisit_events.kafka import event_from

BATCH = 500

Projections = Mapping[str, Collection[type[EventData]]]
"""Tables that hold nothing but what handlers wrote, each with the events whose handlers write it; in the
order in which they may be emptied."""

# One reading in the order of time: the first FETCH sorts what the log has of the clinic, on disk if it is
# long; each page by itself would sort all of it again.
_OPEN = """
DECLARE event_log NO SCROLL CURSOR FOR
SELECT source, event_id, time, type, subject, sequence::text AS sequence, correlation_id,
       causation_id, traceparent, data
FROM inbox
WHERE clinic_id = $1 AND data IS NOT NULL AND type = ANY($2::text[])
ORDER BY time, source, event_id
"""
_NEXT = f"FETCH {BATCH} FROM event_log"
_CLOSE = "CLOSE event_log"


class ConsumerRuns(RuntimeError):
    """A worker of the service is consuming; stop it first."""


@asynccontextmanager
async def consumer_stands_still(database: Database, group: str) -> AsyncIterator[None]:
    """Keeps the consumers of a group from working.

    Args:
        database: With the service's user.
        group: Name of the group.

    Raises:
        ConsumerRuns: One is at work.
    """
    async with database.alone() as connection:
        taken = await connection.exec_driver_sql(
            "SELECT pg_try_advisory_lock($1)", (lock_number(consumer_lock(group)),)
        )
        if not taken.scalar_one():
            raise ConsumerRuns(f"a worker of {group} is consuming: stop it, then rebuild")
        yield


async def clinics_of_log(worker_database: Database) -> list[UUID]:
    """Gives the clinics that the event log speaks of.

    Args:
        worker_database: With the worker's role, which may list them and sees the events of those it names.
    """
    async with worker_database.connect() as connection:
        rows = await connection.exec_driver_sql("SELECT * FROM clinics_of_inbox() ORDER BY 1")
        return [row[0] for row in rows]


async def rebuild(
    database: Database,
    handlers: Handlers,
    projections: Projections,
    clinic_id: UUID,
    now: datetime,
) -> int:
    """Makes the projections of a clinic again; gives how many events were applied.

    Args:
        database: With the service's user.
        handlers: By contract.
        projections: Of the service.
        clinic_id: Whose.
        now: Business time, given to the handlers.
    """
    makers = {contract for contracts in projections.values() for contract in contracts}
    order = [contract for contract in CATALOG.values() if contract in makers]
    applied = 0
    async with database.transaction((clinic_id,)) as connection:
        for table in projections:
            # Names come from the service's own constant.
            await connection.exec_driver_sql(
                f'DELETE FROM "{table}" WHERE clinic_id = $1',  # noqa: S608
                (clinic_id,),
            )
        async for events in _log(connection, clinic_id, _types(order)):
            await handle(connection, handlers, order, events, now)
            applied += len(events)
    return applied


def _types(contracts: Sequence[type[EventData]]) -> list[str]:
    """Gives the types of contracts, older versions included: the log keeps what was published."""
    current = {contract.TYPE for contract in contracts}
    topics = {topic_of(event_type) for event_type in current}
    return sorted(current | {old for old in UPCASTERS if topic_of(old) in topics})


async def _log(
    connection: AsyncConnection, clinic_id: UUID, types: Sequence[str]
) -> AsyncIterator[list[AnyEvent]]:
    await fetch(connection, _OPEN, clinic_id, types)
    while rows := await fetch(connection, _NEXT):
        yield [_event(clinic_id, row) for row in rows]
    await fetch(connection, _CLOSE)


def _event(clinic_id: UUID, row: object) -> AnyEvent:
    found = {
        "specversion": "1.0",
        "clinicid": str(clinic_id),
        "id": row.event_id,  # type: ignore[attr-defined]  # a row of _OPEN
        "source": row.source,  # type: ignore[attr-defined]
        "type": row.type,  # type: ignore[attr-defined]
        "time": row.time.isoformat(),  # type: ignore[attr-defined]
    }
    for name, column in (
        ("sequence", "sequence"),
        ("correlationid", "correlation_id"),
        ("causationid", "causation_id"),
        ("traceparent", "traceparent"),
    ):
        if (text := getattr(row, column)) is not None:
            found[name] = text
    data: str = row.data  # type: ignore[attr-defined]
    return event_from(topic_of(found["type"]), found, data.encode())
