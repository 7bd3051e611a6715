"""A backlog is read ahead: nothing of it is lost or overtaken when its batch fails or goes elsewhere."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.broker.conftest import Side
from tests.broker.test_delivery import Seen, running, until, visits
from tests.broker.test_recovery import relay_all

from revisit_chassis.clock import SystemClock
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.consumer import Consumer
from revisit_events.contracts import LeadLost, VisitCompleted
from revisit_events.envelope import AnyEvent, new_event
from revisit_events.handlers import Handlers
from revisit_events.reading import BATCH

pytestmark = pytest.mark.broker
BACKLOG = 2 * BATCH + 100


class Slow(Seen):
    """A handler that takes its time, and to which the database is away when it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.fails_at: set[int] = set()

    async def __call__(
        self, connection: AsyncConnection, events: Sequence[Any], now: datetime
    ) -> None:
        self.sizes.append(len(events))
        # Long enough for the next batch to have been read.
        await asyncio.sleep(0.2)
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
    return Consumer(group, side.database, handlers, SystemClock(), kafka, watch)


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
