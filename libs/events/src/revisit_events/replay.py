"""Replay of a topic from the outbox: the retained messages of a span of real time are sent again.

Groups that had them drop them by their inbox; a new subscriber gets them for the first time.
"""

from datetime import datetime

from revisit_chassis.db import Database

_REPLAY = """
INSERT INTO outbox_unsent (clinic_id, recorded_on, position, slot)
SELECT clinic_id, recorded_on, position, hashtext(key) & 63 FROM outbox
WHERE topic = $1 AND recorded_at >= $2 AND recorded_at < $3
  AND recorded_on >= ($2 AT TIME ZONE 'UTC')::date AND recorded_on <= ($3 AT TIME ZONE 'UTC')::date
ON CONFLICT (position) DO NOTHING
"""


async def replay_outbox(database: Database, topic: str, since: datetime, until: datetime) -> int:
    """Puts messages into the relay's queue again; gives how many.

    Args:
        database: With the worker's role.
        topic: Whose messages.
        since: First moment of recording, with a time zone.
        until: The moment after the last one.
    """
    async with database.connect() as connection:
        found = await connection.exec_driver_sql(_REPLAY, (topic, since, until))
        return int(found.rowcount)
