"""Messages that the broker will not take: put aside by the relay, listed, sent again or given up.

A lane that tried them for ever would send nothing else. Their day of the outbox is kept until somebody
has decided.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Database
from revisit_events.outbox import SLOT_OF_KEY

_PUT_ASIDE = """
WITH gone AS (
  DELETE FROM outbox_unsent WHERE position = ANY($1::bigint[])
  RETURNING clinic_id, recorded_on, position
)
INSERT INTO outbox_unsendable (clinic_id, recorded_on, position, reason)
SELECT clinic_id, recorded_on, position, given.reason
FROM gone JOIN unnest($1::bigint[], $2::text[]) AS given (position, reason) USING (position)
ON CONFLICT (clinic_id, position) DO UPDATE SET reason = excluded.reason, put_aside_at = now()
"""
_LIST_ASIDE = """
SELECT clinic_id, position, topic, event_id, octet_length(data) AS size_bytes, reason, put_aside_at
FROM outbox_unsendable LEFT JOIN outbox USING (clinic_id, recorded_on, position) ORDER BY position
"""
_TAKE_UP = f"""
WITH again AS (
  DELETE FROM outbox_unsendable WHERE position = ANY($1::bigint[])
  RETURNING clinic_id, recorded_on, position
)
INSERT INTO outbox_unsent (clinic_id, recorded_on, position, slot)
SELECT clinic_id, recorded_on, position, {SLOT_OF_KEY}
FROM again JOIN outbox USING (clinic_id, recorded_on, position) ON CONFLICT (position) DO NOTHING
"""  # noqa: S608  (a constant)
_GIVE_UP = "DELETE FROM outbox_unsendable WHERE position = ANY($1::bigint[])"


async def put_aside(connection: AsyncConnection, reasons: Mapping[int, str]) -> None:
    """Takes messages off the relay's queue.

    Args:
        connection: With the worker's role.
        reasons: Why, by position in the outbox.
    """
    await connection.exec_driver_sql(_PUT_ASIDE, (list(reasons), list(reasons.values())))


async def unsendable(database: Database) -> Sequence[Any]:
    """Gives what was put aside, oldest first: clinic, position, topic, event, reason, moment.

    Args:
        database: With the worker's role.
    """
    async with database.connect() as connection:
        found = await connection.exec_driver_sql(_LIST_ASIDE)
        return found.all()


async def take_up_again(database: Database, positions: Sequence[int]) -> int:
    """Queues messages that were put aside, after the broker was told to take what it had refused.

    One that is too large for the relay itself is put aside again.

    Args:
        database: With the worker's role.
        positions: In the outbox.
    """
    async with database.connect() as connection:
        return int((await connection.exec_driver_sql(_TAKE_UP, (list(positions),))).rowcount)


async def give_up(database: Database, positions: Sequence[int]) -> int:
    """Forgets messages that were put aside: nobody will get them.

    Args:
        database: With the worker's role.
        positions: In the outbox.
    """
    async with database.connect() as connection:
        return int((await connection.exec_driver_sql(_GIVE_UP, (list(positions),))).rowcount)
