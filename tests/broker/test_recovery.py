"""What a restart, a lost log, a flood or a deadly message leaves behind, over a real broker."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.broker.conftest import Side
from tests.broker.test_delivery import Seen, consumer_of, put, running, until, visits

from revisit_chassis.clock import SystemClock
from revisit_chassis.db import Database
from revisit_events import dlq, feed, metrics, testing
from revisit_events import reading as reading_module
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.consumer import Consumer
from revisit_events.contracts import AppointmentBooked, PatientErased, VisitCompleted
from revisit_events.handlers import Handlers
from revisit_events.rebuild import ConsumerRuns, consumer_stands_still
from revisit_events.relay import Relay, unsent
from revisit_events.unsendable import unsendable

pytestmark = pytest.mark.broker


async def sent_all(side: Side) -> None:
    async with asyncio.timeout(40):
        while await unsent(side.worker_database):
            await asyncio.sleep(0.02)


async def execute(database: Database, statement: str, *arguments: object) -> list[Any]:
    async with database.connect() as connection:
        found = await connection.exec_driver_sql(statement, tuple(arguments))
        return list(found.all()) if found.returns_rows else []


def repeated(group: str) -> float:
    return float(metrics.REPEATED.labels(group)._value.get())


def refilled(service: str) -> float:
    return float(metrics.REFILLS.labels(service)._value.get())


async def test_group_to_which_nothing_more_comes_is_known_to_have_caught_up_after_a_restart(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    seen, events = Seen(), visits(30)
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    first = consumer_of(group, subscriber, seen, kafka, watch)
    async with running(watch.run, sender.run, first.run):
        await put(publisher.database, events)
        await until(lambda: {e.id for e in events} <= set(seen.ids()))
        await until(lambda: first.has_applied(sender.acknowledged))
        acknowledged = dict(sender.acknowledged)
    second = consumer_of(group, subscriber, seen, kafka, watch)
    async with running(watch.run, second.run):
        await until(lambda: second.has_applied(acknowledged))


async def test_lanes_keep_the_order_of_a_key(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    seen, clinic_id = Seen(), uuid.uuid4()
    patients = [uuid.uuid4() for _ in range(8)]
    events = [
        testing.visit_completed(clinic_id=clinic_id, patient_id=patients[n % 8]) for n in range(400)
    ]
    lanes = [Relay("booking", publisher.worker_database, kafka, watch, n, 3) for n in range(3)]
    consumer = consumer_of(group, subscriber, seen, kafka, watch)
    async with running(watch.run, consumer.run, *(lane.run for lane in lanes)):
        await put(publisher.database, events)
        await until(lambda: {e.id for e in events} <= set(seen.ids()))
    for patient in patients:
        got = [e.id for e in seen.events if getattr(e.data, "patient_id", None) == patient]
        assert got == [e.id for e in events if e.data.patient_id == patient]


async def test_dead_letter_of_any_size_reaches_the_topic_cut_and_the_row_whole(
    subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    value = b"x" * 900_000
    raw = dlq.Raw("visit.completed", 0, 7, b"k" * 100_000, value, [("ce_id", b"y" * 200_000)])
    async with subscriber.database.connect() as connection:
        await dlq.keep(connection, "scoring", raw, reason="invalid", error=ValueError())
    sender = Relay("scoring", subscriber.worker_database, kafka, watch)
    async with running(watch.run, sender.run):
        await sent_all(subscriber)
    assert await unsendable(subscriber.worker_database) == []
    (letter,) = await dlq.open_letters(subscriber.worker_database)
    assert letter.raw.value == value
    (row,) = await execute(
        subscriber.worker_database,
        "SELECT headers::json->>'dead-letter-truncated', data FROM outbox",
    )
    assert row[0] == "262144 of 900000 bytes"
    assert len(row[1]) == 262_144


async def test_tripped_consumer_gets_past_its_letters_after_a_restart(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    seen, events = Seen(), visits(150, patient_id=uuid.uuid4())  # of one partition
    wanted = {event.id for event in events}
    seen.fails = lambda event: event.id in wanted
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    first = consumer_of(group, subscriber, seen, kafka, watch)
    async with running(watch.run, sender.run, first.run):
        await put(publisher.database, events)
        await until(lambda: first.is_tripped)
    second = consumer_of(group, subscriber, seen, kafka, watch)
    good = visits(1)
    async with running(watch.run, sender.run, second.run):
        await put(publisher.database, good)
        await until(lambda: good[0].id in seen.ids() or second.is_tripped)
        # The good one may stand in another partition, and come before the last of the bad ones.
        await until(lambda: second.is_tripped or buried(subscriber, wanted))
    assert not second.is_tripped


async def buried(side: Side, event_ids: set[str]) -> bool:
    """Whether each of the events is a dead letter."""
    letters = await dlq.open_letters(side.worker_database, 1000)
    found = {dict(one.raw.headers).get("ce_id") for one in letters}
    return found >= {event_id.encode() for event_id in event_ids}


async def test_partition_last_read_from_another_log_is_read_from_its_beginning(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    seen, events = Seen(), visits(25)
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    first = consumer_of(group, subscriber, seen, kafka, watch)
    async with running(watch.run, sender.run, first.run):
        await put(publisher.database, events)
        await until(lambda: {e.id for e in events} <= set(seen.ids()))
    # However the last session ended, the database knows which log it read.
    await execute(subscriber.worker_database, "UPDATE feed_mark SET cluster_id = 'another log'")
    before = repeated(group)
    second = consumer_of(group, subscriber, seen, kafka, watch)
    async with running(watch.run, second.run):
        await until(lambda: second.has_applied(sender.acknowledged))
    assert repeated(group) >= before + 25
    third = consumer_of(group, subscriber, seen, kafka, watch)
    before = repeated(group)
    async with running(watch.run, third.run):
        await until(lambda: bool(third.processed) and third.feed.is_current())
    assert repeated(group) == before


async def test_group_is_as_fresh_as_the_stalest_partition_of_any_member(
    publisher: Side,
    subscriber: Side,
    kafka: KafkaSettings,
    watch: BrokerWatch,
    group: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "STALE_AFTER_SECONDS", 6.0)
    gate = asyncio.Event()
    gate.set()

    async def held_up(connection: AsyncConnection, events: Sequence[Any], now: datetime) -> None:
        await gate.wait()

    handlers: Handlers = {VisitCompleted: held_up, AppointmentBooked: Seen()}
    members = [
        Consumer(group, subscriber.database, handlers, SystemClock(), kafka, watch)
        for _ in range(2)
    ]
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    async with running(watch.run, sender.run, *(member.run for member in members)):
        await until(lambda: all(member.feed.is_fresh() for member in members))
        gate.clear()
        await put(publisher.database, visits(1))
        await until(lambda: not any(member.feed.is_fresh() for member in members))
        # The one that is not held up is ready all the same.
        assert any(member.feed.is_current() for member in members)
        gate.set()
        await until(lambda: all(member.feed.is_fresh() for member in members))


async def test_message_that_ends_the_process_again_and_again_is_buried_alone(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    events = visits(20, patient_id=uuid.uuid4())  # of one partition
    deadly = events[11].id
    seen = Seen()
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    async with running(watch.run, sender.run):
        await put(publisher.database, events)
        await sent_all(publisher)

    class Died(BaseException):
        """Nothing of ours runs after it, as after a kill."""

    async def handler(connection: AsyncConnection, given: Sequence[Any], now: datetime) -> None:
        if any(event.id == deadly for event in given):
            raise Died
        await seen(connection, given, now)

    for _ in range(12):
        consumer = Consumer(
            group, subscriber.database, {VisitCompleted: handler}, SystemClock(), kafka, watch
        )
        async with running(watch.run) as stop:
            task = asyncio.ensure_future(consumer.run(stop))
            done = time.monotonic() + 30
            while not task.done() and time.monotonic() < done and events[-1].id not in seen.ids():
                await asyncio.sleep(0.02)
            stop.set()
            try:
                await task
            except Died:
                continue
            break
    assert {e.id for e in events} - {deadly} <= set(seen.ids())
    letters = await dlq.open_letters(subscriber.worker_database)
    assert [
        one.reason for one in letters if dict(one.raw.headers).get("ce_id") == deadly.encode()
    ] == ["deadly"]


async def test_rebuild_is_refused_while_a_consumer_works(
    subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    consumer = consumer_of(group, subscriber, Seen(), kafka, watch)
    async with running(watch.run, consumer.run):
        await until(consumer.feed.is_current)
        with pytest.raises(ConsumerRuns, match="stop it"):
            async with consumer_stands_still(subscriber.database, group):
                pytest.fail("both worked")
    async with consumer_stands_still(subscriber.database, group):
        pass


async def test_erasure_reaches_the_contact_block_of_a_dead_letter(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    erased = testing.patient_erased(clinic_id=uuid.uuid4())
    contact = testing.patient_contact_changed(
        clinic_id=erased.clinic_id, patient_id=erased.data.patient_id
    )

    def letter(offset: int) -> dlq.Raw:
        headers = [("ce_clinicid", str(erased.clinic_id).encode()), ("ce_id", b"%d" % offset)]
        return dlq.Raw(contact.topic, 0, offset, contact.key.encode(), contact.data_json(), headers)

    async def bury(offset: int) -> None:
        async with subscriber.database.connect() as connection:
            await dlq.keep(connection, group, letter(offset), reason="handler", error=ValueError())

    await bury(1)
    seen = Seen()
    consumer = Consumer(
        group, subscriber.database, {PatientErased: seen}, SystemClock(), kafka, watch
    )
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    async with running(watch.run, sender.run, consumer.run):
        await put(publisher.database, [erased])
        await until(lambda: erased.id in seen.ids())
    await bury(2)
    rows = await execute(
        subscriber.worker_database, "SELECT value, state FROM dead_letter ORDER BY kafka_offset"
    )
    assert [tuple(row) for row in rows] == [(None, "discarded"), (None, "open")]
    assert (
        await execute(subscriber.worker_database, "SELECT 1 FROM outbox WHERE data IS NOT NULL")
        == []
    )


async def test_workers_stop_soon_while_the_broker_is_out_of_reach(
    publisher: Side, subscriber: Side, group: str
) -> None:
    nowhere = KafkaSettings("127.0.0.1:9", enable_idempotence=False, topic_partitions=1)
    watch = BrokerWatch(nowhere)
    watch.cluster_id = "one that was there a moment ago"
    watch._seen.set()
    await put(publisher.database, visits(1))
    sender = Relay("booking", publisher.worker_database, nowhere, watch)
    consumer = consumer_of(group, subscriber, Seen(), nowhere, watch)
    async with running(watch.run, sender.run, consumer.run):
        await asyncio.sleep(1.5)
        began = time.monotonic()
    assert time.monotonic() - began < 12
    assert await unsent(publisher.worker_database) == 1


async def test_lost_lock_is_noticed_under_load(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch
) -> None:
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    failures: list[int] = []

    async def load(stop: asyncio.Event) -> None:
        while not stop.is_set():
            await put(publisher.database, visits(50))
            failures.append(sender._failures)

    async with running(watch.run, sender.run, load):
        await until(lambda: bool(sender.acknowledged))
        await execute(
            publisher.worker_database,
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        await until(lambda: max(failures) > 0)
        await until(lambda: failures[-1] == 0)


async def test_client_that_hangs_on_a_dead_connection_is_replaced(
    publisher: Side,
    subscriber: Side,
    kafka: KafkaSettings,
    watch: BrokerWatch,
    group: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading_module, "METADATA_MAX_AGE_MS", 200)
    monkeypatch.setattr(reading_module, "CUT_OFF_SECONDS", 3.0)
    readers: list[AIOKafkaConsumer] = []

    def make(**settings: Any) -> AIOKafkaConsumer:
        readers.append(AIOKafkaConsumer(**settings))
        return readers[-1]

    async def learn_nothing(*_: object) -> bool:
        await asyncio.sleep(0.1)
        return False

    monkeypatch.setattr(reading_module, "AIOKafkaConsumer", make)
    seen, before, after = Seen(), visits(3), visits(3)
    sender = Relay("booking", publisher.worker_database, kafka, watch)
    consumer = consumer_of(group, subscriber, seen, kafka, watch)
    async with running(watch.run, sender.run, consumer.run):
        await put(publisher.database, before)
        await until(lambda: {e.id for e in before} <= set(seen.ids()))
        readers[0]._client._metadata_update = learn_nothing
        await until(lambda: len(readers) > 1)
        await put(publisher.database, after)
        await until(lambda: {e.id for e in after} <= set(seen.ids()))
