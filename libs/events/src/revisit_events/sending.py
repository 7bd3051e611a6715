"""Rows of the outbox become record batches, one or a few a partition, put together here.

Handed to the client row by row, each message costs a future, a look at the metadata and a hash in Python,
and of a partition only sixteen kilobytes are under way at a time.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder

from revisit_chassis.failpoint import failpoint
from revisit_events.feed import Partition
from revisit_events.outbox import record_headers

PACKAGE_BYTES = 256 * 1024
"""Of a record batch; a broker takes a megabyte unless told otherwise."""
LARGEST_RECORD_BYTES = 1_000_000
KEYS_REMEMBERED = 16_384

UNSENDABLE = (MessageSizeTooLargeError, RecordListTooLargeError)
"""Faults that are the message's own: the broker will refuse it tomorrow as well."""


@dataclass(slots=True)
class Sent:
    """What came of a batch of rows."""

    first: dict[Partition, int] = field(default_factory=dict)
    """The first offset that was acknowledged in each partition."""
    last: dict[Partition, int] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    """Positions of rows that can never be sent, and why."""
    topics: Counter[str] = field(default_factory=Counter)
    """How many were acknowledged, by topic."""

    def acknowledge(self, topic: str, partition: int, offset: int, number: int) -> None:
        """Notes that the broker has so many records from an offset on.

        Args:
            topic: Of the records.
            partition: Of the records.
            offset: Of the first; below zero when the broker does not say it (a repeat it already had).
            number: Of records.
        """
        self.topics[topic] += number
        if offset >= 0:
            at = (topic, partition)
            self.first[at] = min(self.first.get(at, offset), offset)
            self.last[at] = max(self.last.get(at, -1), offset + number - 1)


async def send(
    producer: AIOKafkaProducer, rows: Sequence[Any], partitions: int, sent: Sent
) -> None:
    """Sends rows until all is acknowledged or refused.

    Rows of a key keep their order: they share a partition, whose packages go one after another.

    Args:
        producer: Started, with `PACKAGE_BYTES` as its batch size.
        rows: Each a `Message` with its `position`, in order.
        partitions: Of each topic, as configured.
        sent: Gets what the broker says, also when this ends with a fault.

    Raises:
        KafkaError: The broker is out of reach or not itself; what it took so far may come again.
    """
    counts: dict[str, list[int]] = {}
    places: dict[Partition, list[Any]] = {}
    for row in rows:
        if len(row.data or b"") + len(row.headers) > LARGEST_RECORD_BYTES:
            sent.refused[row.position] = MessageSizeTooLargeError.__name__
            continue
        if row.topic not in counts:
            counts[row.topic] = declared(await producer.partitions_for(row.topic), partitions)
        at = (row.topic, partition_of(row.key.encode(), counts[row.topic]))
        places.setdefault(at, []).append(row)
    # All are waited for: what is still under way would overtake the next try.
    ended = await asyncio.gather(
        *(
            _send_in_order(producer, TopicPartition(*at), found, sent)
            for at, found in places.items()
        ),
        return_exceptions=True,
    )
    for one in ended:
        if one is not None:
            raise one


def declared(every: Collection[int], partitions: int) -> list[int]:
    """Gives the partitions over which keys are spread: as many as declared, whatever a topic has.

    A topic may come to have more: the embedded broker makes one of four for a stranger who looks it up, and
    an operator may add some. By the number it finds, a sender would move a key amid its events.

    Args:
        every: Numbers of the topic's partitions.
        partitions: Of each topic, as configured.
    """
    return sorted(every)[:partitions]


def partition_of(key: bytes, numbers: Sequence[int]) -> int:
    """Gives the partition of a key, as Kafka's own clients choose it.

    Args:
        key: Of a message.
        numbers: Of the declared partitions.

    >>> partition_of(b"a patient", [0])
    0
    """
    return numbers[_hash(key) % len(numbers)] if len(numbers) > 1 else numbers[0]


@lru_cache(maxsize=KEYS_REMEMBERED)
def _hash(key: bytes) -> int:
    found: int = murmur2(key) & 0x7FFFFFFF
    return found


async def _send_in_order(
    producer: AIOKafkaProducer, at: TopicPartition, rows: Sequence[Any], sent: Sent
) -> None:
    for package, packed in _packages(producer, rows):
        try:
            await _send_package(producer, at, package, sent)
        except UNSENDABLE:
            # The broker refuses a whole package of records: each by itself tells which it was.
            for row in packed:
                await _send_alone(producer, at, row, sent)


async def _send_alone(producer: AIOKafkaProducer, at: TopicPartition, row: Any, sent: Sent) -> None:
    for package, _ in _packages(producer, [row]):
        try:
            await _send_package(producer, at, package, sent)
        except UNSENDABLE as error:
            sent.refused[row.position] = type(error).__name__


async def _send_package(
    producer: AIOKafkaProducer, at: TopicPartition, package: BatchBuilder, sent: Sent
) -> None:
    number = package.record_count()
    under_way = await producer.send_batch(package, at.topic, partition=at.partition)
    failpoint("relay.mid_send")
    sent.acknowledge(at.topic, at.partition, (await under_way).offset, number)


def _packages(
    producer: AIOKafkaProducer, rows: Sequence[Any]
) -> Iterator[tuple[BatchBuilder, list[Any]]]:
    """Gives record batches that hold the rows in order, each with its rows."""
    packed: list[Any] = []
    package = producer.create_batch()
    for row in rows:
        record = {
            "timestamp": None,
            "key": row.key.encode(),
            "value": row.data,
            "headers": record_headers(row),
        }
        # None says that it is full; the first record always fits.
        if package.append(**record) is None:
            yield package, packed
            package, packed = producer.create_batch(), []
            package.append(**record)
        packed.append(row)
    if packed:
        yield package, packed
