"""An embedded broker that came back empty: what is sent to its new log, and when.

It takes records for a topic that does not exist, and forgets them when the topic is made (docs/adr/0050).
"""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import UnknownTopicOrPartitionError
from tests.broker.conftest import Side
from tests.broker.test_delivery import put, running, until, visits
from tests.broker.test_recovery import sent_all

from revisit_events import testing
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.envelope import AnyEvent
from revisit_events.relay import Relay
from standalone.broker import EmbeddedBroker

pytestmark = pytest.mark.broker
LONG_ENOUGH_SECONDS = 2.0
"""A client that connected again by itself would do so within a tenth of a second."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    """An embedded broker of the test's own."""
    broker = EmbeddedBroker(tmp_path / "broker.log")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def kafka(broker: EmbeddedBroker) -> KafkaSettings:
    return KafkaSettings(broker.bootstrap_servers, enable_idempotence=False, topic_partitions=1)


@asynccontextmanager
async def sending(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch, events: Sequence[AnyEvent]
) -> AsyncIterator[Relay]:
    """A relay that has sent some events already."""
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    async with running(watch.run, sender.run):
        await put(publisher.database, events)
        await sent_all(publisher)
        yield sender


async def test_nothing_is_sent_before_the_topics_are_there(
    publisher: Side, broker: EmbeddedBroker, kafka: KafkaSettings, watch: BrokerWatch
) -> None:
    events = visits(60)
    async with sending(publisher, kafka, watch, events[:20]) as sender:
        broker.stop()
        # What waits in the client meanwhile goes to whatever answers next.
        await put(publisher.database, events[20:40])
        broker.listen()
        await put(publisher.database, events[40:])
        await asyncio.sleep(LONG_ENOUGH_SECONDS)
        broker.make_topics()
        await until(lambda: sender._cluster_id == broker.cluster_id)
        await sent_all(publisher)
    assert await ids_in_the_log(kafka) == [event.id for event in events]


async def test_relay_outlives_a_broker_that_dies_with_a_batch_under_way(
    publisher: Side, broker: EmbeddedBroker, kafka: KafkaSettings, watch: BrokerWatch
) -> None:
    events = visits(40)
    async with sending(publisher, kafka, watch, events[:20]) as sender:
        os.kill(broker.pid, signal.SIGSTOP)
        await put(publisher.database, events[20:])
        # Several polls of the relay: the batch is on its way to a broker that does not answer.
        await asyncio.sleep(LONG_ENOUGH_SECONDS)
        broker.stop()
        broker.start()
        await until(lambda: sender._cluster_id == broker.cluster_id)
        await sent_all(publisher)
    assert await ids_in_the_log(kafka) == [event.id for event in events]


async def test_key_keeps_its_partition_in_a_topic_that_a_stranger_made(
    publisher: Side, broker: EmbeddedBroker, kafka: KafkaSettings
) -> None:
    clinic_id, patients = uuid.uuid4(), [uuid.uuid4() for _ in range(8)]
    events = [
        testing.visit_completed(clinic_id=clinic_id, patient_id=patients[n % 8]) for n in range(80)
    ]
    await relay_all(publisher, kafka, events[:40])
    broker.stop()
    # As if a stranger had asked first, for whom the broker makes a topic of four.
    broker.partitions = 4
    broker.start()
    await relay_all(publisher, kafka, events[40:])
    records, partitions = await whole_log(kafka)
    assert partitions == 4
    assert {record.partition for record in records} == {0}
    for patient in patients:
        key = f"{clinic_id}:{patient}".encode()
        ids = [id_of(record) for record in records if record.key == key]
        assert ids == [event.id for event in events if event.data.patient_id == patient]


async def test_nobody_has_a_topic_made_by_looking_it_up(bootstrap_servers: str) -> None:
    name = f"nobody-{uuid.uuid4().hex}"
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, request_timeout_ms=500)
    await producer.start()
    with pytest.raises(UnknownTopicOrPartitionError):
        await producer.partitions_for(name)
    await producer.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    await admin.describe_topics([name])
    assert name not in await admin.list_topics()
    await admin.close()


async def relay_all(side: Side, kafka: KafkaSettings, events: Sequence[AnyEvent]) -> None:
    """Sends events, and what a lost log has still to get, as a worker that starts now does."""
    watch = BrokerWatch(kafka)
    sender = Relay("booking", side.worker_database, kafka, watch)
    await put(side.database, events)
    async with running(watch.run, sender.run):
        await until(lambda: sender._cluster_id is not None)
        await sent_all(side)


async def whole_log(kafka: KafkaSettings) -> tuple[list[Any], int]:
    """Gives every record of completed visits as any client reads them, and the number of partitions."""
    # Without a group it is given every partition there is.
    reader = AIOKafkaConsumer(
        "visit.completed",
        bootstrap_servers=kafka.bootstrap_servers,
        auto_offset_reset="earliest",
    )
    await reader.start()
    try:
        found: list[Any] = []
        while fetched := await reader.getmany(timeout_ms=1_000):
            found += [record for batch in fetched.values() for record in batch]
        return found, len(reader.assignment())
    finally:
        await reader.stop()


async def ids_in_the_log(kafka: KafkaSettings) -> list[str]:
    records, _ = await whole_log(kafka)
    return [id_of(record) for record in records]


def id_of(record: Any) -> str:
    event_id: str = dict(record.headers)["ce_id"].decode()
    return event_id
