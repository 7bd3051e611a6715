"""What the relay does about a log that lost its end or its beginning, and about what nobody takes."""

import uuid

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, OutOfOrderSequenceNumber
from aiokafka.producer.message_accumulator import BatchBuilder
from tests.broker.conftest import Side
from tests.broker.producers import Refused
from tests.broker.test_delivery import put, running, until, visits
from tests.broker.test_recovery import execute, refilled, sent_all

from revisit_events import relay
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.outbox import Message, enqueue
from revisit_events.relay import Relay, unsent
from revisit_events.sending import PACKAGE_BYTES
from revisit_events.unsendable import give_up, take_up_again, unsendable

pytestmark = pytest.mark.broker
LARGE = 100_000


async def test_every_lane_forgets_the_offsets_of_a_log_that_another_lane_noticed(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch
) -> None:
    lanes = [Relay("booking", publisher.worker_database, kafka, watch, n, 2) for n in range(2)]
    for lane in lanes:
        await lane.notice_log("first")
        lane.acknowledged["visit.completed", 0] = 900
    for lane in lanes:
        await lane.notice_log("second")
        assert lane.acknowledged == {}


async def test_one_lane_sends_all_on_the_embedded_broker(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch, is_apache_kafka: bool
) -> None:
    lanes = [Relay("booking", publisher.worker_database, kafka, watch, n, 3) for n in range(3)]
    async with running(watch.run, *(lane.run for lane in lanes)):
        await put(publisher.database, visits(60))
        await sent_all(publisher)
    have_sent = [bool(lane.acknowledged) for lane in lanes]
    assert have_sent == ([True] * 3 if is_apache_kafka else [True, False, False])


async def test_log_that_ends_before_what_it_acknowledged_is_refilled(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch
) -> None:
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    async with running(watch.run, sender.run):
        await put(publisher.database, visits(10))
        await sent_all(publisher)
    await execute(
        publisher.worker_database, "UPDATE relay_position SET kafka_offset = kafka_offset + 100000"
    )
    await sender._check_log()
    while await sender._fill_day():
        pass
    assert await unsent(publisher.worker_database) == 10


async def test_offset_given_twice_is_proof_of_a_log_cut_short_and_refills_at_once(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LOG_CHECK_SECONDS", 3600.0)
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    async with running(watch.run, sender.run):
        await put(publisher.database, visits(10))
        await sent_all(publisher)
        first, refills = max(sender.acknowledged.values()), refilled("booking")
        await execute(
            publisher.worker_database,
            "UPDATE relay_position SET kafka_offset = kafka_offset + 100000",
        )
        # The end of the log is not asked for; the next acknowledgement tells.
        await put(publisher.database, visits(6))
        await until(lambda: refilled("booking") > refills)
        await sent_all(publisher)
    (row,) = await execute(
        publisher.worker_database, "SELECT max(kafka_offset) FROM relay_position"
    )
    assert row[0] < first + 100_000


async def test_refill_sends_nothing_newer_before_the_days_that_a_lost_log_has_to_get(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch
) -> None:
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    await put(publisher.database, visits(3))
    await execute(publisher.worker_database, "SELECT mark_outbox_refill()")
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    assert await sender.relay_batch(producer) == 0
    assert await sender._fill_day()
    assert not await sender._fill_day()
    await producer.start()
    try:
        assert await sender.relay_batch(producer) == 3
    finally:
        await producer.stop()


async def test_what_the_broker_never_takes_is_put_aside_and_the_rest_goes_on(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch
) -> None:
    clinic_id = uuid.uuid4()
    huge = Message(clinic_id, "visit.completed", "k", "huge", "{}", b"x" * 3_000_000)
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    async with publisher.database.transaction((clinic_id,)) as connection:
        await enqueue(connection, [huge])
    await put(publisher.database, visits(20))
    async with running(watch.run, sender.run):
        await sent_all(publisher)
        (row,) = await unsendable(publisher.worker_database)
        assert (row.event_id, row.reason) == ("huge", "MessageSizeTooLargeError")
        assert await take_up_again(publisher.worker_database, [row.position]) == 1
        await sent_all(publisher)
    assert await give_up(publisher.worker_database, [row.position]) == 1
    assert await unsendable(publisher.worker_database) == []


class Miscounting(Refused):
    """Of a broker that refuses a large record, and then all that follows, for the count has a gap."""

    has_gap = False

    def fault_of(self, batch: BatchBuilder) -> Exception | None:
        """Refuses the large record, in a package or alone; what comes after it alone is out of order."""
        fault: Exception | None = OutOfOrderSequenceNumber() if self.has_gap else None
        if batch.size() > LARGE:
            fault, self.has_gap = MessageSizeTooLargeError(), batch.record_count() == 1
        return fault


async def test_refusal_that_costs_the_producer_its_count_is_not_tried_again_with_the_rest(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch
) -> None:
    clinic_id = uuid.uuid4()
    large = Message(clinic_id, "visit.completed", "k", "large", "{}", b"x" * (LARGE + 1))
    small = [large._replace(event_id=f"small-{n}", data=b"x") for n in range(5)]
    async with publisher.database.transaction((clinic_id,)) as connection:
        await enqueue(connection, [*small[:3], large, *small[3:]])
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    producer = Miscounting(bootstrap_servers=kafka.bootstrap_servers, max_batch_size=PACKAGE_BYTES)
    await producer.start()
    try:
        with pytest.raises(OutOfOrderSequenceNumber):
            await sender.relay_batch(producer)
        (row,) = await unsendable(publisher.worker_database)
        assert row.event_id == "large"
        producer.has_gap = False  # as that of another producer
        assert await sender.relay_batch(producer) == len(small)
    finally:
        await producer.stop()


async def test_position_without_its_row_does_not_stop_the_queue(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch
) -> None:
    await execute(
        publisher.worker_database,
        "INSERT INTO outbox_unsent SELECT gen_random_uuid(), '2020-01-01', -n, 0 "
        "FROM generate_series(1, 600) AS n",
    )
    await put(publisher.database, visits(1))
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    async with running(watch.run, sender.run):
        await sent_all(publisher)
    assert len(await unsendable(publisher.worker_database)) == 600
