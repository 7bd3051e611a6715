"""Replay of a topic from the outbox: the retained messages of a span of real time are sent again.

Groups that had them drop them by their inbox; a new subscriber gets them for the first time.
"""

from datetime import UTC, date, datetime, timedelta

from revisit_chassis.db import Database
from revisit_events.catalog import TOPICS
from revisit_events.outbox import SLOT_OF_KEY
from revisit_events.relay import without_timeout

_REPLAY = f"""
INSERT INTO outbox_unsent (clinic_id, recorded_on, position, slot)
SELECT clinic_id, recorded_on, position, {SLOT_OF_KEY} FROM outbox
WHERE recorded_on = $4 AND topic = $1 AND recorded_at >= $2 AND recorded_at < $3
ORDER BY position
ON CONFLICT (position) DO NOTHING
"""  # noqa: S608  (a constant)
_DAYS = "SELECT DISTINCT recorded_on FROM outbox WHERE topic = $1 AND recorded_on BETWEEN $2 AND $3"


class UnknownTopic(ValueError):
    """No event of the catalogue has this topic."""


async def replay_outbox(database: Database, topic: str, since: datetime, until: datetime) -> int:
    """Puts messages into the relay's queue again; gives how many.

    Of a compacted topic everything up to now is sent, whatever `until` says: the last message of a
    key is what the topic keeps, and an older one, sent last, would bring back a contact that was
    changed or erased since.

    Args:
        database: With the worker's role.
        topic: Whose messages.
        since: First moment of recording, with a time zone.
        until: The moment after the last one.

    Raises:
        UnknownTopic: The catalogue has no such topic.
    """
    contract = TOPICS.get(topic)
    if contract is None:
        raise UnknownTopic(topic)
    if not contract.COMPACTED:
        return await _replay(database, topic, since, until)
    began_at = datetime.now(UTC)
    count = await _replay(database, topic, since, _END)
    # What was published and sent meanwhile stands before older messages now: it is sent after them.
    return count + await _replay(database, topic, began_at - _MARGIN, _END)


_END = datetime.max.replace(tzinfo=UTC)
_MARGIN = timedelta(seconds=60)


async def _replay(database: Database, topic: str, since: datetime, until: datetime) -> int:
    async with database.connect() as connection:
        # Whole days are read on purpose (ADR 0052).
        await connection.exec_driver_sql("SET LOCAL enable_seqscan = on")
        days: list[date] = [
            row.recorded_on
            for row in await connection.exec_driver_sql(
                _DAYS, (topic, since.astimezone(UTC).date(), until.astimezone(UTC).date())
            )
        ]
    count = 0
    # A statement a day, without a deadline; a repeat of the command queues nothing twice.
    for day in sorted(days):
        count += await without_timeout(database, _REPLAY, topic, since, until, day)
    return count
