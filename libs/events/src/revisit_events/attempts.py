"""Which message a process died of: one that kills its handler's process would otherwise do so for ever.

Before the first messages of a partition that a member got are applied, it is written down where it
begins. Whoever begins at the same offset for the third time handles the messages one by one and commits
each; a message at which that as well ended twice is buried without being handled again.
"""

from collections.abc import Mapping, Sequence

from aiokafka import TopicPartition

from revisit_chassis.db import Database, fetch, fetch_value

CAREFUL_FROM = 3
"""Tries at the same offset from which on messages are handled one by one."""
DEADLY_FROM = 3
"""Tries of one message by itself from which on it is not handled any more."""

_BEGIN = """
INSERT INTO consumer_attempt AS a (topic, partition, kafka_offset, together, alone)
SELECT topic, partition, kafka_offset, 1, 0 FROM unnest($1::text[], $2::int[], $3::bigint[])
  AS given (topic, partition, kafka_offset) ORDER BY 1, 2
ON CONFLICT (topic, partition) DO UPDATE SET kafka_offset = excluded.kafka_offset,
  together = CASE WHEN a.kafka_offset = excluded.kafka_offset THEN a.together + 1 ELSE 1 END,
  alone = CASE WHEN a.kafka_offset = excluded.kafka_offset THEN a.alone ELSE 0 END
RETURNING topic, partition, together, alone
"""
_BEGIN_ALONE = """
INSERT INTO consumer_attempt AS a (topic, partition, kafka_offset, together, alone)
VALUES ($1, $2, $3, 0, 1)
ON CONFLICT (topic, partition) DO UPDATE SET kafka_offset = excluded.kafka_offset,
  together = CASE WHEN a.kafka_offset = excluded.kafka_offset THEN a.together ELSE 0 END,
  alone = CASE WHEN a.kafka_offset = excluded.kafka_offset THEN a.alone + 1 ELSE 1 END
RETURNING alone
"""
_END = """
UPDATE consumer_attempt SET together = 0, alone = 0
FROM unnest($1::text[], $2::int[]) AS given (topic, partition)
WHERE (consumer_attempt.topic, consumer_attempt.partition) = (given.topic, given.partition)
"""


class DiedOfIt(RuntimeError):
    """The process ended several times while it handled this message."""


async def begin(
    database: Database, offsets: Mapping[TopicPartition, int]
) -> frozenset[TopicPartition]:
    """Notes where messages are about to be applied; gives the partitions that ask for care.

    Args:
        database: With the service's user.
        offsets: First offset in each partition.
    """
    async with database.connect() as connection:
        found = await fetch(
            connection,
            _BEGIN,
            [at.topic for at in offsets],
            [at.partition for at in offsets],
            list(offsets.values()),
        )
        return frozenset(
            TopicPartition(row.topic, row.partition)
            for row in found
            if row.together >= CAREFUL_FROM or row.alone
        )


async def is_deadly(database: Database, at: TopicPartition, offset: int) -> bool:
    """Notes that a message is about to be handled by itself; tells whether that has killed too often.

    Args:
        database: With the service's user.
        at: Where it stands.
        offset: Of the message.
    """
    async with database.connect() as connection:
        tries = await fetch_value(connection, _BEGIN_ALONE, at.topic, at.partition, offset)
        return int(tries) >= DEADLY_FROM


async def end(database: Database, partitions: Sequence[TopicPartition]) -> None:
    """Notes that what was begun was applied.

    Args:
        database: With the service's user.
        partitions: In which.
    """
    async with database.connect() as connection:
        await fetch(
            connection, _END, [at.topic for at in partitions], [at.partition for at in partitions]
        )
