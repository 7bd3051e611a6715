"""What a worker does for its own tables every few seconds."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from revisit_chassis.clock import SystemClock
from revisit_chassis.db import Database, fetch
from revisit_events import dlq, metrics, rejected, testing
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.consumer import Consumer
from revisit_events.dlq import Raw
from revisit_events.feed import FLOOD_AT_MOST_SECONDS, NEVER, FeedStatus, Flood
from revisit_events.outbox import publish
from revisit_events.worker import Worker
from standalone.cluster import Cluster


async def test_upkeep_measures_the_queue_and_drops_what_is_old(postgres: Cluster) -> None:
    made = postgres.create("scoring")
    database, worker_database = Database(made.database_url), Database(made.worker_database_url)
    watch = BrokerWatch(KafkaSettings("127.0.0.1:9"))
    consumer = Consumer("scoring", database, {}, SystemClock(), watch.kafka, watch)
    worker = Worker(
        "upkeep",
        database,
        worker_database,
        SystemClock(),
        watch,
        consumer,
        [],
        (),
        event_log_retention_days=44,
    )
    try:
        event = testing.visit_completed()
        async with database.transaction((event.clinic_id,)) as connection:
            await publish(connection, [event])
        for offset, closed_at in enumerate((None, datetime.now(UTC) - timedelta(days=31))):
            raw = Raw("visit.completed", 0, offset, None, b"x", [])
            async with database.connect() as connection:
                await dlq.keep(connection, "scoring", raw, reason="invalid", error=ValueError())
            async with worker_database.connect() as connection:
                await connection.exec_driver_sql(
                    "UPDATE dead_letter SET state = 'discarded', closed_at = $1 "
                    "WHERE kafka_offset = $2 AND $1::timestamptz IS NOT NULL",
                    (closed_at, offset),
                )
        await worker.keep_up()
        assert metrics.OUTBOX_UNSENT.labels("upkeep")._value.get() == 3
        assert 0 <= metrics.OUTBOX_OLDEST_SECONDS.labels("upkeep")._value.get() < 60
        assert metrics.DEAD_OPEN.labels("upkeep")._value.get() == 1
        async with worker_database.connect() as connection:
            left = await connection.exec_driver_sql("SELECT kafka_offset FROM dead_letter")
            assert [row.kafka_offset for row in left] == [0]
    finally:
        await database.close()
        await worker_database.close()


async def test_upkeep_forgets_what_was_refused_long_ago(postgres: Cluster) -> None:
    made = postgres.create("booking")
    database, worker_database = Database(made.database_url), Database(made.worker_database_url)
    clinics = [uuid.uuid4(), uuid.uuid4()]
    ages = {"old": timedelta(days=31), "young": timedelta(days=29)}
    try:
        async with database.transaction(clinics) as connection:
            for clinic_id in clinics:
                for name, age in ages.items():
                    await fetch(connection, _REFUSED, clinic_id, uuid.uuid4(), age, name)
        await rejected.forget_old(worker_database)
        async with database.transaction(clinics) as connection:
            left = await fetch(connection, "SELECT event_id FROM rejected_event")
        assert [row.event_id for row in left] == ["young", "young"]
    finally:
        await database.close()
        await worker_database.close()


_REFUSED = """
INSERT INTO rejected_event (clinic_id, rejected_event_id, received_at, times, event_id, problem, body)
VALUES ($1, $2, now() - $3::interval, 1, $4, '{}', '')
"""


def test_group_is_not_fresh_before_every_partition_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = BrokerWatch(KafkaSettings("127.0.0.1:9"))
    monkeypatch.setattr(BrokerWatch, "is_reachable", True)
    feed = FeedStatus(watch)
    now = datetime.now(UTC).timestamp()
    assert not feed.is_fresh()
    for group, is_fresh in (
        ([now, now], True),
        ([now, NEVER], False),
        ([now, now - 61], False),
        ([], False),
    ):
        feed.noted([now], group)
        assert feed.is_fresh() is is_fresh
    monkeypatch.setattr(BrokerWatch, "is_reachable", False)
    feed.noted([now], [now])
    assert not feed.is_fresh()


def took(flood: Flood, *, rate: float, since: float, until: float) -> float:
    """Takes batches of a tenth of a second at a steady rate; gives when the last one came."""
    at = since
    while at + 0.1 <= until:
        at += 0.1
        flood.took(round(rate / 10), at, has_more=False)
    return at


def test_steady_load_below_the_rate_is_no_flood_and_above_it_is_one() -> None:
    for rate, is_flood in ((100, False), (1_900, False), (3_000, True), (50_000, True)):
        flood = Flood()
        at = took(flood, rate=rate, since=100, until=105)
        assert flood.is_on(at) is is_flood, rate


def test_upload_of_a_day_is_no_flood_and_one_of_a_year_is() -> None:
    for events, is_flood in ((900, False), (4_000, True)):
        flood = Flood()
        flood.took(events, 100, has_more=False)
        assert flood.is_on(100) is is_flood, events


def test_flood_ends_a_second_after_it_however_high_it_was() -> None:
    flood = Flood()
    at = took(flood, rate=50_000, since=100, until=110)
    assert flood.is_on(at + 0.9)
    assert not flood.is_on(at + 1.1)
    flood.took(10, at + 1.1, has_more=False)
    assert not flood.is_on(at + 1.1)


def test_backlog_is_a_flood_at_whatever_rate() -> None:
    flood = Flood()
    for at in range(100, 110):
        flood.took(400, at, has_more=at % 2 == 0)
    assert flood.is_on(108.9)
    assert not flood.is_on(109.1)


def test_what_lasts_longer_than_a_minute_is_waited_for_no_more() -> None:
    flood = Flood()
    at = took(flood, rate=10_000, since=100, until=100 + FLOOD_AT_MOST_SECONDS - 1)
    assert flood.is_on(at)
    at = took(flood, rate=10_000, since=at, until=at + 30)
    assert not flood.is_on(at)
    # The next flood, after a pause, is waited for anew.
    at = took(flood, rate=10_000, since=at + 5, until=at + 8)
    assert flood.is_on(at)


def test_minute_goes_on_though_each_batch_of_a_backlog_takes_longer_than_a_flood_lasts() -> None:
    flood, at = Flood(), 100.0
    while at < 100 + FLOOD_AT_MOST_SECONDS:
        flood.took(4_000, at, has_more=True)
        assert flood.is_on(at + 0.9)
        at += 1.5
    flood.took(4_000, at + 1.5, has_more=True)
    assert not flood.is_on(at + 1.5)
