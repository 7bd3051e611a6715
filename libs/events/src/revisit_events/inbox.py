"""The inbox: each event is claimed once, in the transaction of its effect; the rows are the event log.

The data of the contact event are not kept: the log lives for years, and erasure must be whole.
"""

import time
from collections.abc import Sequence
from datetime import UTC, date, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Database, change, fetch
from revisit_events.contracts import PatientContactChanged
from revisit_events.envelope import AnyEvent

FIRST_MONTH = date(2000, 1, 1)
LAST_MONTH = date(2099, 12, 1)
KNOWN_SECONDS = 600.0

_CLAIM = """
INSERT INTO inbox (clinic_id, source, event_id, time, type, subject, sequence,
                   correlation_id, causation_id, traceparent, data)
SELECT clinic_id, source, event_id, time, type, subject, sequence::numeric,
       correlation_id, causation_id, traceparent, data
FROM unnest($1::inbox_event[])
ORDER BY clinic_id, source, event_id
"""
_CLAIM_THOSE_NOT_THERE = f"{_CLAIM} ON CONFLICT DO NOTHING"
# Asked only when some were claimed before; a row whose xmin is this transaction is new.
_NEW = """
SELECT clinic_id, source, event_id, time FROM inbox
JOIN unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[])
  AS given (clinic_id, source, event_id, time) USING (clinic_id, source, event_id, time)
WHERE inbox.xmin = pg_current_xact_id()::xid
"""


class Months:
    """Makes the log's partitions as they are needed, and remembers for a while which there are.

    Not for ever: the upkeep of any worker may drop a month whose rows are old enough.

    Args:
        database: Of the service.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: set[date] = set()
        self._known_since = time.monotonic()

    async def ensure(self, times: Sequence[datetime]) -> None:
        """Makes the partitions of some times. What lies outside a century goes to the default one.

        Args:
            times: Of the events about to be claimed.
        """
        if time.monotonic() - self._known_since > KNOWN_SECONDS:
            self._known.clear()
            self._known_since = time.monotonic()
        months = {date(moment.year, moment.month, 1) for moment in times}
        for month in sorted(months - self._known):
            if FIRST_MONTH <= month <= LAST_MONTH:
                # A transaction of its own: making a partition locks the table against others.
                async with self._database.connect() as connection:
                    await fetch(connection, "SELECT ensure_inbox_partition($1::date)", month)
            self._known.add(month)


async def claim_new(connection: AsyncConnection, events: Sequence[AnyEvent]) -> list[AnyEvent]:
    """Claims events on the guess that all of them are new, and gives them.

    Args:
        connection: In the transaction of their effect.
        events: To be claimed.

    Raises:
        asyncpg.UniqueViolationError: One is not, and the transaction has failed.
    """
    await fetch(connection, _CLAIM, _rows(events))
    return list(events)


async def claim(connection: AsyncConnection, events: Sequence[AnyEvent]) -> list[AnyEvent]:
    """Claims events; gives those that are new, in their order.

    Args:
        connection: In the transaction of their effect.
        events: May hold repeats of each other.
    """
    rows = _rows(events)
    if await change(connection, _CLAIM_THOSE_NOT_THERE, rows) == len(events):
        return list(events)
    found = await fetch(connection, _NEW, *([row[place] for row in rows] for place in range(4)))
    fresh = {tuple(row) for row in found}
    claimed = []
    for event in events:
        identity = (event.clinic_id, event.source, event.id, event.time)
        if identity in fresh:
            fresh.discard(identity)
            claimed.append(event)
    return claimed


def _rows(events: Sequence[AnyEvent]) -> list[tuple[object, ...]]:
    return [
        (
            event.clinic_id,
            event.source,
            event.id,
            event.time,
            event.type,
            event.subject,
            None if event.sequence is None else str(event.sequence),
            event.correlation_id,
            event.causation_id,
            event.traceparent,
            _kept(event),
        )
        for event in events
    ]


def _kept(event: AnyEvent) -> str | None:
    if type(event.data) is PatientContactChanged:
        return None
    return event.data_json().decode()


def first_kept_day(now: datetime, retention_days: int) -> date | None:
    """Gives the first day of recording that the log must still hold; none keeps it for ever.

    Args:
        now: Real time: retention is technical.
        retention_days: 0 for ever.
    """
    if retention_days <= 0:
        return None
    return date.fromordinal(now.astimezone(UTC).date().toordinal() - retention_days)
