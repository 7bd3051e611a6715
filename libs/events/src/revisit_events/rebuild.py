"""Rebuild of projections from the event log: what a handler made can be made again.

A clinic at a time, in one transaction: its rows go, its events are applied again in order of time. The
consumer of the service must be stopped, or it adds to what is being rebuilt.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Database
from revisit_events.catalog import CATALOG, topic_of
from revisit_events.consumer import Handlers, handle
from revisit_events.envelope import AnyEvent
from revisit_events.kafka import event_from

BATCH = 500

_READ = """
SELECT source, event_id, time, type, subject, sequence::text AS sequence, correlation_id,
       causation_id, data::text AS data
FROM inbox
WHERE clinic_id = $1 AND data IS NOT NULL AND (time, source, event_id) > ($2, $3, $4)
ORDER BY time, source, event_id LIMIT $5
"""


async def clinics_of_log(worker_database: Database) -> list[UUID]:
    """Gives the clinics that the event log speaks of.

    Args:
        worker_database: With the worker's role, which sees all of them.
    """
    async with worker_database.connect() as connection:
        rows = await connection.exec_driver_sql("SELECT DISTINCT clinic_id FROM inbox ORDER BY 1")
        return [row[0] for row in rows]


async def rebuild(
    database: Database,
    handlers: Handlers,
    tables: Sequence[str],
    clinic_id: UUID,
    now: datetime,
) -> int:
    """Makes the projections of a clinic again; gives how many events were applied.

    Args:
        database: With the service's user.
        handlers: By contract.
        tables: The projections, in the order in which they may be emptied.
        clinic_id: Whose.
        now: Business time, given to the handlers.
    """
    order = [contract for contract in CATALOG.values() if contract in handlers]
    applied = 0
    async with database.transaction((clinic_id,)) as connection:
        for table in tables:
            # Names come from the service's own constant.
            await connection.exec_driver_sql(
                f'DELETE FROM "{table}" WHERE clinic_id = $1',  # noqa: S608
                (clinic_id,),
            )
        async for events in _log(connection, clinic_id):
            await handle(connection, handlers, order, events, now)
            applied += len(events)
    return applied


async def _log(connection: AsyncConnection, clinic_id: UUID) -> AsyncIterator[list[AnyEvent]]:
    after: tuple[datetime, str, str] | None = None
    while True:
        first = after or (datetime.fromisoformat("0001-01-01T00:00:00+00:00"), "", "")
        rows = (await connection.exec_driver_sql(_READ, (clinic_id, *first, BATCH))).all()
        if not rows:
            return
        after = (rows[-1].time, rows[-1].source, rows[-1].event_id)
        yield [_event(clinic_id, row) for row in rows]


def _event(clinic_id: UUID, row: object) -> AnyEvent:
    found = {
        "specversion": "1.0",
        "clinicid": str(clinic_id),
        "id": row.event_id,  # type: ignore[attr-defined]  # a row of _READ
        "source": row.source,  # type: ignore[attr-defined]
        "type": row.type,  # type: ignore[attr-defined]
        "time": row.time.isoformat(),  # type: ignore[attr-defined]
    }
    for name, column in (
        ("sequence", "sequence"),
        ("correlationid", "correlation_id"),
        ("causationid", "causation_id"),
    ):
        if (text := getattr(row, column)) is not None:
            found[name] = text
    data: str = row.data  # type: ignore[attr-defined]
    return event_from(topic_of(found["type"]), found, data.encode())
