"""A backlog is read ahead: nothing of it is lost or overtaken when its batch fails or goes elsewhere."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.broker.conftest import Side
from tests.broker.test_delivery import Seen, consumer_of, running, until, visits
from tests.broker.test_new_log import relay_all

from revisit_chassis.clock import SystemClock
from revisit_events import dlq
from revisit_events import reading as reading_module
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.consumer import PIECE_EVENTS, Consumer, Tripped
from revisit_events.contracts import LeadLost, VisitCompleted
from revisit_events.dlq import Raw
from revisit_events.envelope import AnyEvent, new_event
from revisit_events.handlers import Handlers
from revisit_events.reading import Read, Reading, reader_of

pytestmark = pytest.mark.broker
BATCH = 500
BACKLOG = 2 * BATCH + 100
HERE = TopicPartition("visit.completed", 0)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of which a test makes some in a moment."""
    monkeypatch.setattr(reading_module, "BATCH", BATCH)


class Slow(Seen):
    """A handler that waits until its consumer has read ahead; the database is away when it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.consumers: list[Consumer] = []
        self.sizes: list[int] = []
        self.fails_at: set[int] = set()

    def has_read_ahead(self) -> bool:
        """Whether no consumer is reading while this one works."""
        ahead = [one._reading._ahead for one in self.consumers if one._reading]
        return all(task is None or task.done() for task in ahead)

    async def __call__(
        self, connection: AsyncConnection, events: Sequence[Any], now: datetime
    ) -> None:
        self.sizes.append(len(events))
        await until(self.has_read_ahead)
        if len(self.sizes) in self.fails_at:
            raise ConnectionError("the database is away")
        await super().__call__(connection, events, now)


async def backlog(publisher: Side, kafka: KafkaSettings) -> list[AnyEvent]:
    """Two topics of one patient: a batch is of one of them, and the next one may be of the other."""
    done = visits(BACKLOG, patient_id=uuid.uuid4())
    clinic_id, patient_id = done[0].clinic_id, uuid.UUID(done[0].key.partition(":")[2])
    lost = [
        new_event(
            LeadLost(lead_id=uuid.uuid4(), patient_id=patient_id),
            source="/booking",
            clinic_id=clinic_id,
            time=event.time,
        )
        for event in done
    ]
    await relay_all(publisher, kafka, [*done, *lost])
    return [*done, *lost]


def consumer_of_both(
    group: str, side: Side, handler: "Slow", kafka: KafkaSettings, watch: BrokerWatch
) -> Consumer:
    handlers: Handlers = {VisitCompleted: handler, LeadLost: handler}
    consumer = Consumer(group, side.database, handlers, SystemClock(), kafka, watch)
    handler.consumers.append(consumer)
    return consumer


def in_order(handler: "Slow", events: Sequence[AnyEvent]) -> bool:
    """Whether each topic's events came once and in their order."""
    for contract in (VisitCompleted, LeadLost):
        given = [event.id for event in events if isinstance(event.data, contract)]
        mine = set(given)
        if [id_ for id_ in handler.ids() if id_ in mine] != given:
            return False
    return True


async def test_batch_that_fails_takes_back_what_was_read_after_it(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    events, slow = await backlog(publisher, kafka), Slow()
    slow.fails_at = {2, 3}
    consumer = consumer_of_both(group, subscriber, slow, kafka, watch)
    wanted = {event.id for event in events}
    async with running(watch.run, consumer.run):
        await until(lambda: wanted <= set(slow.ids()))
    assert max(slow.sizes) == BATCH
    assert in_order(slow, events)


async def test_consumer_knows_of_the_flood_that_it_takes_in(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    await backlog(publisher, kafka)
    consumer = consumer_of_both(group, subscriber, Slow(), kafka, watch)
    assert not consumer.feed.is_flooded
    async with running(watch.run, consumer.run):
        await until(lambda: consumer.feed.is_flooded)
        await until(lambda: not consumer.feed.is_flooded)


async def test_member_that_joins_amid_a_backlog_overtakes_nothing(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    events, slow = await backlog(publisher, kafka), Slow()
    first = consumer_of_both(group, subscriber, slow, kafka, watch)
    second = consumer_of_both(group, subscriber, slow, kafka, watch)
    wanted = {event.id for event in events}

    async def join(stop: asyncio.Event) -> None:
        while len(slow.sizes) < 2 and not stop.is_set():
            await asyncio.sleep(0.02)
        await second.run(stop)

    async with running(watch.run, first.run, join):
        await until(lambda: wanted <= set(slow.ids()))
    assert in_order(slow, events)


@pytest.fixture
async def amid_decoding(
    publisher: Side, kafka: KafkaSettings, group: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[AIOKafkaConsumer, Reading]]:
    """A batch that was polled and is being decoded, message by message."""
    monkeypatch.setattr(reading_module, "SLICE", 1)
    await relay_all(publisher, kafka, visits(BATCH // 2))
    reader = reader_of(group, kafka)
    await reader.start()
    reader.assign([HERE])
    await reader.seek_to_beginning(HERE)
    reading = Reading(reader, "any")
    reading.read_ahead()
    while await reader.position(HERE) == 0:
        await asyncio.sleep(0)
    yield reader, reading
    await reading.drop_ahead()
    await reader.stop()


async def test_batch_that_is_dropped_while_it_is_decoded_comes_again(
    amid_decoding: tuple[AIOKafkaConsumer, Reading],
) -> None:
    _, reading = amid_decoding
    await reading.drop_ahead()
    assert (await reading.next()).reads[0].record.offset == 0


async def test_partition_may_be_taken_away_while_its_batch_is_decoded(
    amid_decoding: tuple[AIOKafkaConsumer, Reading],
) -> None:
    reader, reading = amid_decoding
    reader.assign([TopicPartition("lead.lost", 0)])
    assert (await reading.next()).reads[0].record.offset == 0


class Together(Seen):
    """A handler that goes on when another one has begun as well, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[set[uuid.UUID]] = []
        self.both = asyncio.Barrier(2)
        self.away: set[uuid.UUID] = set()

    async def __call__(
        self, connection: AsyncConnection, events: Sequence[Any], now: datetime
    ) -> None:
        clinics = {event.clinic_id for event in events}
        self.calls.append(clinics)
        if len(self.calls) <= self.both.parties:
            await asyncio.wait_for(self.both.wait(), 10)
        if self.away & clinics:
            self.away.clear()
            raise ConnectionError("the database is away")
        await super().__call__(connection, events, now)


def of_two_clinics() -> tuple[list[AnyEvent], list[AnyEvent], list[Read]]:
    """Two clinics' visits, each of one patient, as one batch in turn."""
    one, other = (visits(150, patient_id=uuid.uuid4()) for _ in range(2))
    reads = [
        Read(Raw("visit.completed", 0, offset, event.key.encode(), event.data_json(), ()), event)
        for offset, event in enumerate(
            event for pair in zip(one, other, strict=True) for event in pair
        )
    ]
    return one, other, reads


async def test_clinics_of_a_batch_are_applied_beside_each_other_and_each_in_order(
    subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    one, other, reads = of_two_clinics()
    seen = Together()
    await consumer_of(group, subscriber, seen, kafka, watch).apply(reads)
    assert sorted(map(len, seen.calls)) == [1, 1]
    for events in (one, other):
        given = [event.id for event in events]
        assert [id_ for id_ in seen.ids() if id_ in set(given)] == given


async def test_bad_event_costs_only_its_own_part_the_batch(
    subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    one, other, reads = of_two_clinics()
    seen = Together()
    seen.fails = lambda event: event.id == one[70].id
    await consumer_of(group, subscriber, seen, kafka, watch).apply(reads)
    assert seen.calls.count({other[0].clinic_id}) == 1
    # All together, three pieces, the events of the one that failed.
    assert seen.calls.count({one[0].clinic_id}) == 1 + 3 + PIECE_EVENTS
    assert sorted(seen.ids()) == sorted({event.id for event in [*one, *other]} - {one[70].id})
    letters = await dlq.open_letters(subscriber.worker_database)
    assert [letter.raw.value for letter in letters if letter.raw.key == one[70].key.encode()] == [
        one[70].data_json()
    ]


async def test_part_that_the_database_refused_comes_again_and_the_other_is_a_repeat(
    subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    one, other, reads = of_two_clinics()
    seen = Together()
    seen.away = {one[0].clinic_id}
    consumer = consumer_of(group, subscriber, seen, kafka, watch)
    with pytest.raises(ConnectionError):
        await consumer.apply(reads)
    assert sorted(seen.ids()) == sorted(event.id for event in other)
    await consumer.apply(reads)
    assert sorted(seen.ids()) == sorted(event.id for event in [*one, *other])


async def test_flood_in_one_part_trips_the_consumer_whatever_becomes_of_the_other(
    subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    one, other, reads = of_two_clinics()
    seen = Together()
    seen.fails = lambda event: event.clinic_id == one[0].clinic_id
    seen.away = {other[0].clinic_id}
    with pytest.raises(Tripped):
        await consumer_of(group, subscriber, seen, kafka, watch).apply(reads)


async def test_flood_over_two_batches_trips_though_one_of_them_had_a_good_part(
    subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> None:
    good, bad = visits(150), visits(140, patient_id=uuid.uuid4())
    seen = Seen()
    seen.fails = lambda event: event.clinic_id == bad[0].clinic_id
    reads = [
        Read(Raw("visit.completed", 0, offset, event.key.encode(), event.data_json(), ()), event)
        for offset, event in enumerate([*good, *bad])
    ]
    consumer = consumer_of(group, subscriber, seen, kafka, watch)
    await consumer.apply(reads[:240])
    with pytest.raises(Tripped):
        await consumer.apply(reads[240:])
