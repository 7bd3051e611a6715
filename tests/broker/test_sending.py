"""Record batches on a real broker: order within a key, whatever their size and whatever is refused."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import MessageSizeTooLargeError, NotLeaderForPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder
from tests.broker.producers import Refused

from revisit_events.broker import KafkaSettings
from revisit_events.sending import PACKAGE_BYTES, Sent, declared, partition_of, send
from revisit_events.topics import WrongTopic, create_topics

pytestmark = pytest.mark.broker
TOPIC = "visit.completed"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the outbox, as the relay reads it."""

    position: int
    key: str
    data: bytes | None
    topic: str = TOPIC
    headers: str = '{"ce_id":"Анна"}'


class Picky(Refused):
    """Of a broker whose limits are lower than ours, or that has moved."""

    limit = PACKAGE_BYTES * 10
    is_moving = False

    def fault_of(self, batch: BatchBuilder) -> Exception | None:
        """Refuses what is larger than the limit, and everything while the broker moves."""
        fault: Exception | None = NotLeaderForPartitionError() if self.is_moving else None
        if batch.size() > self.limit:
            fault = MessageSizeTooLargeError()
        return fault


@pytest.fixture
async def producer(kafka: KafkaSettings) -> AsyncIterator[Picky]:
    # A consumer of another test may have been faster, and have got more partitions than were declared.
    with contextlib.suppress(WrongTopic):
        await create_topics(kafka.bootstrap_servers, kafka.topic_partitions)
    producer = Picky(
        bootstrap_servers=kafka.bootstrap_servers,
        acks="all",
        enable_idempotence=kafka.enable_idempotence,
        max_batch_size=PACKAGE_BYTES,
    )
    await producer.start()
    yield producer
    await producer.stop()


async def read(kafka: KafkaSettings, key: str) -> list[bytes]:
    """Gives what the topic holds under a key, in order; all of it stands where the key belongs."""
    # Without a group it is given every partition there is.
    consumer = AIOKafkaConsumer(
        TOPIC, bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        numbers = declared(consumer.partitions_for_topic(TOPIC), kafka.topic_partitions)
        found: list[bytes] = []
        while batch := await consumer.getmany(timeout_ms=1500):
            for at, records in batch.items():
                mine = [record.value for record in records if record.key == key.encode()]
                assert not mine or at.partition == partition_of(key.encode(), numbers)
                found += mine
        return found
    finally:
        await consumer.stop()


def rows(key: str, sizes: Sequence[int]) -> list[Row]:
    return [Row(n, key, f"{n:06d}".encode() + b"x" * size) for n, size in enumerate(sizes)]


async def test_more_than_fits_into_one_package_keeps_the_order_of_its_key(
    producer: Picky, kafka: KafkaSettings
) -> None:
    key = str(uuid.uuid4())
    mine = rows(key, [3_000] * 300)
    sent = Sent()
    await send(producer, mine, kafka.topic_partitions, sent)
    assert sent.refused == {}
    assert sent.topics == {TOPIC: 300}
    (at,) = sent.first
    assert sent.last[at] - sent.first[at] == 299
    assert await read(kafka, key) == [row.data for row in mine]


async def test_record_that_a_broker_refuses_takes_no_other_with_it_and_no_place(
    producer: Picky, kafka: KafkaSettings
) -> None:
    key = str(uuid.uuid4())
    mine = rows(key, [3_000] * 40 + [90_000] + [3_000] * 200)
    producer.limit = 80_000
    sent = Sent()
    await send(producer, mine, kafka.topic_partitions, sent)
    assert sent.refused == {40: "MessageSizeTooLargeError"}
    assert await read(kafka, key) == [row.data for row in mine if row.position != 40]


async def test_record_that_no_broker_takes_is_not_even_tried(
    producer: Picky, kafka: KafkaSettings
) -> None:
    key = str(uuid.uuid4())
    mine = rows(key, [10, 2_000_000, 10])
    sent = Sent()
    await send(producer, mine, kafka.topic_partitions, sent)
    assert sent.refused == {1: "MessageSizeTooLargeError"}
    assert await read(kafka, key) == [mine[0].data, mine[2].data]


async def test_fault_of_the_broker_is_raised_and_refuses_nothing(
    producer: Picky, kafka: KafkaSettings
) -> None:
    producer.is_moving = True
    sent = Sent()
    with pytest.raises(NotLeaderForPartitionError):
        await send(producer, rows(str(uuid.uuid4()), [10]), kafka.topic_partitions, sent)
