"""A consumer beside its relays asks the broker only when they have sent something, and hears of others."""

import uuid
from collections.abc import Callable, Sequence

import pytest
from tests.broker.conftest import Side
from tests.broker.test_delivery import Seen, consumer_of, put, running, until, visits

from revisit_events.arrivals import Arrivals
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.consumer import Consumer
from revisit_events.envelope import AnyEvent
from revisit_events.relay import Relay

pytestmark = pytest.mark.broker


def is_resting(consumer: Consumer) -> bool:
    assert consumer._reading is not None
    reader = consumer._reading._reader
    return bool(reader.assignment()) and reader.paused() == reader.assignment()


def has_seen(seen: Seen, events: Sequence[AnyEvent]) -> Callable[[], bool]:
    wanted = {event.id for event in events}
    return lambda: wanted <= set(seen.ids())


@pytest.fixture
def beside(
    publisher: Side, subscriber: Side, kafka: KafkaSettings, watch: BrokerWatch, group: str
) -> tuple[Relay, Consumer, Seen]:
    """A relay, a consumer that rests, and what it has seen."""
    seen = Seen()
    relay = Relay("booking", publisher.worker_database, kafka, watch)
    return relay, consumer_of(group, subscriber, seen, kafka, watch), seen


async def test_resting_consumer_is_woken_by_what_the_relay_beside_it_sends(
    beside: tuple[Relay, Consumer, Seen], publisher: Side, watch: BrokerWatch
) -> None:
    relay, consumer, seen = beside
    relay.arrivals = consumer.arrivals = Arrivals([relay.acknowledged], rest_seconds=3600.0)
    async with running(watch.run, relay.run, consumer.run):
        for _ in range(3):
            events = visits(20, patient_id=uuid.uuid4())
            await put(publisher.database, events)
            await until(has_seen(seen, events))
            await until(lambda: is_resting(consumer))
    assert len(seen.ids()) == len(set(seen.ids()))


async def test_resting_consumer_hears_of_what_others_send(
    beside: tuple[Relay, Consumer, Seen], publisher: Side, watch: BrokerWatch
) -> None:
    relay, consumer, seen = beside
    consumer.arrivals = Arrivals([], rest_seconds=0.5)
    async with running(watch.run, relay.run, consumer.run):
        await until(lambda: consumer._reading is not None and is_resting(consumer))
        events = visits(20, patient_id=uuid.uuid4())
        await put(publisher.database, events)
        await until(has_seen(seen, events))
