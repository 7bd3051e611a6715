"""Outbox to inbox over a real broker: order, repeats, poison, outages, take-over."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.broker.conftest import Side

from revisit_chassis.clock import SystemClock
from revisit_chassis.db import Database
from revisit_events import dlq, testing, topics
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.consumer import Consumer
from revisit_events.contracts import PatientContactChanged, VisitCompleted
from revisit_events.effects import Effects
from revisit_events.envelope import AnyEvent
from revisit_events.outbox import publish
from revisit_events.relay import Relay, unsent
from revisit_events.replay import replay_outbox
from revisit_events.topics import WrongTopic, create_topics

pytestmark = pytest.mark.broker
TIMEOUT_SECONDS = 40


class Seen:
    """A handler that notes what it was given, and fails where it is told to."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.fails: Callable[[AnyEvent], bool] = lambda _: False

    async def __call__(
        self, connection: AsyncConnection, events: Sequence[Any], now: datetime
    ) -> None:
        for event in events:
            if self.fails(event):
                raise ValueError("this event cannot be handled")
        self.events += events

    def ids(self) -> list[str]:
        return [event.id for event in self.events]


@contextlib.asynccontextmanager
async def running(
    *loops: Callable[[asyncio.Event], Awaitable[None]],
) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    tasks = [asyncio.ensure_future(loop(stop)) for loop in loops]
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(asyncio.gather(*tasks), TIMEOUT_SECONDS)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while True:
            holds = condition()
            if await holds if isinstance(holds, Awaitable) else holds:
                return
            await asyncio.sleep(0.02)


async def put(database: Database, events: Sequence[AnyEvent]) -> None:
    async with database.transaction({event.clinic_id for event in events}) as connection:
        await publish(connection, events)


def consumer_of(
    group: str, side: Side, seen: Seen, kafka: KafkaSettings, watch: BrokerWatch
) -> Consumer:
    return Consumer(group, side.database, {VisitCompleted: seen}, SystemClock(), kafka, watch)


def visits(count: int, **common: Any) -> list[AnyEvent]:
    clinic_id = uuid.uuid4()
    return [testing.visit_completed(clinic_id=clinic_id, **common) for _ in range(count)]


async def test_events_arrive_once_and_in_order_of_their_key(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    seen, patient = Seen(), uuid.uuid4()
    events = visits(700, patient_id=patient)
    relay = Relay("booking", publisher.worker_database, kafka, watch)
    consumer = consumer_of(group, subscriber, seen, kafka, watch)
    async with running(watch.run, relay.run, consumer.run):
        for start in range(0, len(events), 50):
            await put(publisher.database, events[start : start + 50])
        wanted = {event.id for event in events}
        await until(lambda: len(wanted & set(seen.ids())) == len(wanted))
        mine = [id_ for id_ in seen.ids() if id_ in wanted]
    assert mine == [event.id for event in events]
    assert await unsent(publisher.worker_database) == 0


async def test_rolled_back_transaction_publishes_nothing(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    seen = Seen()
    lost, kept = visits(1), visits(1)
    relay = Relay("booking", publisher.worker_database, kafka, watch)
    consumer = consumer_of(group, subscriber, seen, kafka, watch)
    with pytest.raises(RuntimeError):
        async with publisher.database.transaction({lost[0].clinic_id}) as connection:
            await publish(connection, lost)
            raise RuntimeError
    async with running(watch.run, relay.run, consumer.run):
        await put(publisher.database, kept)
        await until(lambda: kept[0].id in seen.ids())
    assert lost[0].id not in seen.ids()


async def test_replay_reaches_the_topic_again_and_the_inbox_drops_it(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    seen = Seen()
    events = visits(20)
    relay = Relay("booking", publisher.worker_database, kafka, watch)
    consumer = consumer_of(group, subscriber, seen, kafka, watch)
    async with running(watch.run, relay.run, consumer.run):
        await put(publisher.database, events)
        await until(lambda: {e.id for e in events} <= set(seen.ids()))
        since = testing.NOON.replace(year=2020)
        count = await replay_outbox(
            publisher.worker_database, "visit.completed", since, since + timedelta(days=99_999)
        )
        last = visits(1)
        await put(publisher.database, last)
        await until(lambda: last[0].id in seen.ids())
    assert count == len(events)
    assert all(seen.ids().count(event.id) == 1 for event in events)


async def test_poison_goes_alone_to_the_dead_letters_and_can_be_replayed(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    seen = Seen()
    events = visits(30)
    bad = events[7].id
    seen.fails = lambda event: event.id == bad
    relay = Relay("booking", publisher.worker_database, kafka, watch)
    consumer = consumer_of(group, subscriber, seen, kafka, watch)
    async with running(watch.run, relay.run, consumer.run):
        await put(publisher.database, events)
        wanted = {event.id for event in events} - {bad}
        await until(lambda: wanted <= set(seen.ids()))
    letters = await dlq.open_letters(subscriber.worker_database)
    mine = [one for one in letters if dict(one.raw.headers)["ce_id"] == bad.encode()]
    assert [(one.reason, one.attempts) for one in mine] == [("handler", 1)]
    assert mine[0].raw.value == events[7].data_json()
    seen.fails = lambda _: False
    await Effects(group, subscriber.database, {VisitCompleted: seen}, SystemClock()).replay(mine[0])
    assert seen.ids().count(bad) == 1
    left = await dlq.open_letters(subscriber.worker_database)
    assert mine[0].dead_letter_id not in {one.dead_letter_id for one in left}


async def test_what_is_no_event_becomes_a_dead_letter_and_the_next_one_proceeds(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    seen = Seen()
    good = visits(1)
    relay = Relay("booking", publisher.worker_database, kafka, watch)
    consumer = consumer_of(group, subscriber, seen, kafka, watch)
    async with running(watch.run, relay.run, consumer.run):
        await watch.seen(asyncio.Event())
        producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
        await producer.start()
        for value, headers in (
            (b"\x00\xff no json", []),
            (b"{}", [("ce_specversion", b"1.0"), ("ce_type", b"visit.completed.v9")]),
            (b"{}", [("ce_id", b"\xff\xfe")]),
            (None, [("ce_specversion", b"1.0")]),
        ):
            await producer.send_and_wait("visit.completed", value, key=b"k", headers=headers)
        await producer.stop()
        await put(publisher.database, good)
        await until(lambda: good[0].id in seen.ids())
        letters: list[dlq.DeadLetter] = []
        async with asyncio.timeout(TIMEOUT_SECONDS):
            # The good event may stand in another partition than the bad ones.
            while len(letters) < 4:
                letters = await dlq.open_letters(subscriber.worker_database)
                await asyncio.sleep(0.02)
    assert len(letters) == 4
    assert {one.reason for one in letters} == {"invalid"}


async def test_flood_of_dead_letters_trips_the_consumer(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    seen = Seen()
    events = visits(150)
    seen.fails = lambda _: True
    relay = Relay("booking", publisher.worker_database, kafka, watch)
    consumer = consumer_of(group, subscriber, seen, kafka, watch)
    async with running(watch.run, relay.run, consumer.run):
        await put(publisher.database, events)
        await until(lambda: consumer.is_tripped)
        assert await consumer.check() is not None
    assert seen.events == []


async def test_standby_relay_takes_over_at_once(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch
) -> None:
    first = Relay("booking", publisher.worker_database, kafka, watch)
    second = Relay("booking", publisher.worker_database, kafka, watch)
    async with running(watch.run):
        async with running(first.run):
            await put(publisher.database, visits(5))
            await until(lambda: bool(first.acknowledged))
            async with running(second.run) as stop_second:
                await put(publisher.database, visits(5))
                await asyncio.sleep(0.3)
                assert not second.acknowledged
                assert not stop_second.is_set()
        async with running(second.run):
            await put(publisher.database, visits(5))
            await until(lambda: bool(second.acknowledged))
    assert await unsent(publisher.worker_database) == 0


async def test_new_log_is_refilled_with_all_that_is_retained(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch
) -> None:
    relay = Relay("booking", publisher.worker_database, kafka, watch)
    async with running(watch.run, relay.run):
        await put(publisher.database, visits(40))
        await until(lambda: bool(relay.acknowledged))
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while await unsent(publisher.worker_database):
                await asyncio.sleep(0.02)
    await relay.notice_log("another log")
    assert await unsent(publisher.worker_database) > 0
    while await relay._fill_day():
        pass
    assert await unsent(publisher.worker_database) == 40
    await relay.notice_log("another log")
    assert not await relay._fill_day()
    assert await unsent(publisher.worker_database) == 40


async def test_outbox_day_with_an_unsent_row_is_never_dropped(publisher: Side) -> None:
    events = visits(1)
    await put(publisher.database, events)
    async with publisher.worker_database.connect() as connection:
        found = await connection.exec_driver_sql("SELECT drop_outbox_partitions(-1)")
        dropped = found.scalar_one()
        kept = await connection.exec_driver_sql("SELECT count(*) FROM outbox")
        assert kept.scalar_one() == 1
        day = await connection.exec_driver_sql(
            "SELECT to_char(recorded_on, 'YYYYMMDD') FROM outbox"
        )
        assert f"outbox_{day.scalar_one()}" not in dropped
        await connection.exec_driver_sql("DELETE FROM outbox_unsent")
        await connection.exec_driver_sql("SELECT drop_outbox_partitions(-1)")
        left = await connection.exec_driver_sql("SELECT count(*) FROM outbox")
        assert left.scalar_one() == 0


async def test_topic_with_another_number_of_partitions_is_refused(kafka: KafkaSettings) -> None:
    name = f"test.{uuid.uuid4().hex}"
    assert await create_topics(kafka.bootstrap_servers, 2, [name]) == [name]
    assert await create_topics(kafka.bootstrap_servers, 2, [name]) == []
    with pytest.raises(WrongTopic, match="2 partitions, KAFKA_TOPIC_PARTITIONS says 3"):
        await create_topics(kafka.bootstrap_servers, 3, [name])


@pytest.mark.parametrize(("policy", "right"), [("compact", "delete"), ("delete", "compact")])
async def test_topic_with_another_policy_is_refused(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch, policy: str, right: str
) -> None:
    name = f"test.{uuid.uuid4().hex}"
    if right == "compact":
        monkeypatch.setattr(topics, "TOPICS", {name: PatientContactChanged})
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1, topic_configs={"cleanup.policy": policy})])
    await admin.close()
    with pytest.raises(WrongTopic, match=f"cleanup.policy {policy} and must have {right}"):
        await create_topics(kafka.bootstrap_servers, 1, [name])


async def test_topic_is_made_with_its_policy(
    kafka: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test.{uuid.uuid4().hex}"
    monkeypatch.setattr(topics, "TOPICS", {name: PatientContactChanged})
    assert await create_topics(kafka.bootstrap_servers, 1, [name]) == [name]
    assert await create_topics(kafka.bootstrap_servers, 1, [name]) == []
    monkeypatch.undo()
    with pytest.raises(WrongTopic, match="must have delete"):
        await create_topics(kafka.bootstrap_servers, 1, [name])
