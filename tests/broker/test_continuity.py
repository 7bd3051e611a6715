"""What outlives a change: of processes, of the broker's log, of a projection."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from deploy.kafka.apache_kafka import ApacheKafka
from tests.broker.conftest import Side
from tests.broker.test_delivery import (
    TIMEOUT_SECONDS,
    Seen,
    consumer_of,
    put,
    running,
    until,
    visits,
)

from engagement.__main__ import PROJECTIONS
from engagement.consumers import HANDLERS
from revisit_chassis.clock import SystemClock
from revisit_chassis.db import Database
from revisit_events import testing
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.consumer import Consumer
from revisit_events.envelope import AnyEvent
from revisit_events.rebuild import rebuild
from revisit_events.relay import Relay, unsent
from revisit_events.replay import replay_outbox
from standalone.broker import EmbeddedBroker
from standalone.cluster import Cluster

pytestmark = pytest.mark.broker


@pytest.fixture
async def own_broker(
    tmp_path: Path, is_apache_kafka: bool
) -> AsyncIterator[ApacheKafka | EmbeddedBroker]:
    """A broker that the test may take from the others."""
    broker: ApacheKafka | EmbeddedBroker = (
        ApacheKafka(tmp_path / "kafka") if is_apache_kafka else EmbeddedBroker(tmp_path / "log")
    )
    await asyncio.to_thread(broker.start)
    yield broker
    await asyncio.to_thread(broker.stop)


async def test_rolling_restart_under_load_loses_and_doubles_nothing(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    seen = Seen()
    one_key: dict[str, Any] = {"clinic_id": uuid.uuid4(), "patient_id": uuid.uuid4()}
    events: list[AnyEvent] = []
    is_over = asyncio.Event()

    async def load() -> None:
        while not is_over.is_set():
            batch = [*visits(5), testing.visit_completed(**one_key)]
            await put(publisher.database, batch)
            events.extend(batch)
            await asyncio.sleep(0.02)

    def relay() -> Relay:
        return Relay("booking", publisher.worker_database, kafka, watch)

    def consumer() -> Consumer:
        return consumer_of(group, subscriber, seen, kafka, watch)

    async with running(watch.run):
        loading = asyncio.create_task(load())
        # As an update does it: the new one is there before the old one goes.
        async with running(relay().run, consumer().run):
            await until(lambda: bool(seen.events))
            second = running(relay().run, consumer().run)
            await second.__aenter__()
            before = len(seen.events)
            await until(lambda: len(seen.events) > before)
        before = len(seen.events)
        async with running(relay().run, consumer().run):
            await until(lambda: len(seen.events) > before)
            await second.__aexit__(None, None, None)
            before = len(seen.events)
            await until(lambda: len(seen.events) > before)
            is_over.set()
            await loading
            wanted = {event.id for event in events}
            await until(lambda: wanted <= set(seen.ids()))
    mine = [id_ for id_ in seen.ids() if id_ in wanted]
    assert len(mine) == len(wanted)
    series = [event.id for event in events if event.clinic_id == one_key["clinic_id"]]
    assert [id_ for id_ in mine if id_ in set(series)] == series


async def test_lost_log_is_filled_again_for_those_who_never_read_it(
    publisher: Side,
    subscriber: Side,
    postgres: Cluster,
    own_broker: ApacheKafka | EmbeddedBroker,
    kafka: KafkaSettings,
    group: str,
) -> None:
    settings = KafkaSettings(
        own_broker.bootstrap_servers,
        enable_idempotence=kafka.enable_idempotence,
        topic_partitions=kafka.topic_partitions,
        fetch_max_wait_ms=kafka.fetch_max_wait_ms,
    )
    watch = BrokerWatch(settings)
    seen, late = Seen(), Seen()
    old, new = visits(40), visits(10)
    relay = Relay("booking", publisher.worker_database, settings, watch)
    consumer = consumer_of(group, subscriber, seen, settings, watch)
    async with running(watch.run, relay.run, consumer.run):
        await put(publisher.database, old)
        await until(lambda: len(seen.events) == len(old))
        await asyncio.to_thread(own_broker.stop)
        if isinstance(own_broker, ApacheKafka):
            own_broker.lose_log()
        await asyncio.to_thread(own_broker.start)
        await put(publisher.database, new)
        await until(lambda: len(set(seen.ids())) == len(old) + len(new))
        newcomer = postgres.create("scoring")
        side = Side(Database(newcomer.database_url), Database(newcomer.worker_database_url))
        async with running(consumer_of(f"{group}-late", side, late, settings, watch).run):
            await until(lambda: len(late.events) == len(old) + len(new))
    await side.database.close()
    await side.worker_database.close()
    assert sorted(seen.ids()) == sorted(event.id for event in [*old, *new])
    assert await unsent(publisher.worker_database) == 0


async def test_replay_sends_what_was_recorded_in_a_span_of_time(
    publisher: Side, kafka: KafkaSettings, watch: BrokerWatch
) -> None:
    relay = Relay("booking", publisher.worker_database, kafka, watch)
    async with running(watch.run, relay.run):
        await put(publisher.database, visits(7))
        since = await _now(publisher)
        await put(publisher.database, visits(5))
        before = await _now(publisher)
        await put(publisher.database, visits(3))
        await _until_sent(publisher)
        sent = sum(relay.acknowledged.values())
        count = await replay_outbox(publisher.worker_database, "visit.completed", since, before)
        await _until_sent(publisher)
    assert count == 5
    assert sum(relay.acknowledged.values()) == sent + count


async def _now(side: Side) -> datetime:
    async with side.worker_database.connect() as connection:
        row = await connection.exec_driver_sql("SELECT clock_timestamp()")
        moment: datetime = row.scalar_one()
    return moment


async def _until_sent(side: Side) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while await unsent(side.worker_database):
            await asyncio.sleep(0.02)


async def test_rebuild_from_the_inbox_gives_the_projections_as_they_were(
    publisher: Side,
    postgres: Cluster,
    kafka: KafkaSettings,
    watch: BrokerWatch,
    group: str,
) -> None:
    made = postgres.create("engagement")
    database = Database(made.database_url)
    url = postgres.server.url(
        made.database_url.rsplit("/", 1)[1], "postgres", postgres.server.superuser_password
    )
    clinic_id, patient_id = uuid.uuid4(), uuid.uuid4()
    common: dict[str, Any] = {"clinic_id": clinic_id, "patient_id": patient_id}
    appointment = {**common, "appointment_id": uuid.uuid4()}
    events = [
        testing.visit_completed(**common),
        testing.appointment_booked(**appointment),
        testing.appointment_cancelled(**appointment, time=testing.NOON + timedelta(hours=1)),
        testing.visit_completed(**common, visit_id=uuid.uuid4()),
    ]
    consumer = Consumer(group, database, HANDLERS, SystemClock(), kafka, watch)
    relay = Relay("booking", publisher.worker_database, kafka, watch)
    async with running(watch.run, relay.run, consumer.run):
        await put(publisher.database, events)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while await _count(url, "inbox", clinic_id) < len(events):
                await asyncio.sleep(0.02)
    before = await _rows(url, list(PROJECTIONS), clinic_id)
    assert before["visit"]
    assert before["appointment"]
    applied = await rebuild(database, HANDLERS, PROJECTIONS, clinic_id, datetime.now(UTC))
    assert applied == len(events)
    assert await _rows(url, list(PROJECTIONS), clinic_id) == before
    await database.close()


async def _count(url: str, table: str, clinic_id: uuid.UUID) -> int:
    return len((await _rows(url, [table], clinic_id))[table])


async def _rows(url: str, tables: Sequence[str], clinic_id: uuid.UUID) -> dict[str, list[str]]:
    connection = await asyncpg.connect(url)
    found = {}
    for table in tables:
        rows = await connection.fetch(
            f'SELECT t::text AS line FROM "{table}" t WHERE clinic_id = $1 ORDER BY 1', clinic_id
        )
        found[table] = [row["line"] for row in rows]
    await connection.close()
    return found
