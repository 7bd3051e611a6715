"""The consumer: fetch, claim and apply in one transaction, commit, then commit the offsets.

Everything that one poll gives, of all topics and partitions, shares a transaction. With many quiet
topics of few partitions this is what makes batches, and one transaction a message is sixteen times
slower than one a batch. If the batch fails, each event is tried in its own transaction, and the one
that fails alone becomes a dead letter. A fault of the infrastructure fails no event: the consumer goes
back to where it was and waits.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, is_infrastructure_fault
from revisit_chassis.failpoint import failpoint
from revisit_events import dlq, kafka, metrics
from revisit_events.broker import BrokerWatch, KafkaSettings, is_broker_fault
from revisit_events.catalog import CATALOG, topic_of
from revisit_events.contracts import EventData
from revisit_events.dlq import Raw
from revisit_events.envelope import AnyEvent, InvalidEvent
from revisit_events.inbox import Months, claim
from revisit_events.retry import pause

BATCH = 500
POLL_MS = 200
SESSION_TIMEOUT_MS = 6_000
HEARTBEAT_MS = 2_000
STALE_AFTER_SECONDS = 60.0
FLOOD_SECONDS = 0.5
TRIP_WINDOW = 200
TRIP_AT = 100

E = TypeVar("E")
Handler = Callable[[AsyncConnection, Sequence[E], datetime], Awaitable[None]]
"""Applies new events of one type, in the transaction given: set-based, in any order, once."""

Handlers = Mapping[type[EventData], Handler[Any]]

log = structlog.get_logger()


class Tripped(RuntimeError):
    """So many messages are bad that the fault is likely ours: the consumer stopped."""


class FeedStatus:
    """How far behind its topics a consumer is.

    Args:
        watch: Knows whether the broker answers.
    """

    def __init__(self, watch: BrokerWatch) -> None:
        self._watch = watch
        self._caught_up_at: float | None = None
        self.behind_seconds = 0.0
        self._full_at = float("-inf")

    @property
    def is_flooded(self) -> bool:
        """Whether polls were full a moment ago: more waits than is taken in."""
        return time.monotonic() - self._full_at < FLOOD_SECONDS

    def polled(self, *, is_full: bool, last_timestamp_ms: int | None) -> None:
        """Notes a poll.

        Args:
            is_full: Whether more was waiting than the poll could take.
            last_timestamp_ms: The broker's timestamp of the last message; none when there was none.
        """
        self._caught_up_at = time.monotonic()
        if is_full:
            self._full_at = self._caught_up_at
        if is_full and last_timestamp_ms is not None:
            self.behind_seconds = max(0.0, time.time() - last_timestamp_ms / 1000)
        else:
            self.behind_seconds = 0.0

    def is_fresh(self) -> bool:
        """Tells whether what was applied is at most a minute old."""
        if self._caught_up_at is None or not self._watch.is_reachable:
            return False
        silent_seconds = time.monotonic() - self._caught_up_at
        return max(silent_seconds, self.behind_seconds) < STALE_AFTER_SECONDS


class Consumer:
    """A service's one consumer group.

    Args:
        group: Name of the group and the service.
        database: With the service's user.
        handlers: By contract; the topics follow from it.
        clock: Business time, given to handlers.
        kafka_settings: Where to read.
        watch: Knows which log the broker is.
    """

    def __init__(
        self,
        group: str,
        database: Database,
        handlers: Handlers,
        clock: Clock,
        kafka_settings: KafkaSettings,
        watch: BrokerWatch,
    ) -> None:
        self.group = group
        self.feed = FeedStatus(watch)
        self.processed: dict[tuple[str, int], int] = {}
        self.is_tripped = False
        self._database = database
        self._handlers = handlers
        self._order = [contract for contract in CATALOG.values() if contract in handlers]
        self._clock = clock
        self._kafka = kafka_settings
        self._watch = watch
        self._months = Months(database)
        self._recent: deque[bool] = deque(maxlen=TRIP_WINDOW)

    @property
    def topics(self) -> list[str]:
        """Topics the group reads."""
        return [topic_of(contract.TYPE) for contract in self._order]

    async def check(self) -> str | None:
        """Gives what is wrong, for readiness."""
        if self.is_tripped:
            return "tripped by a flood of dead letters"
        return None if self.feed.is_fresh() else "behind its topics or cut off from them"

    async def run(self, stop: asyncio.Event) -> None:
        """Consumes until told to stop; waits out every fault of the infrastructure.

        Args:
            stop: Ends it after the batch in hand.
        """
        failures = 0
        rewind = False
        while not stop.is_set():
            try:
                await self._watch.seen(stop)
                if not stop.is_set():
                    rewind = await self._session(stop, rewind=rewind)
                    failures = 0
            except Tripped:
                self.is_tripped = True
                metrics.TRIPPED.labels(self.group).set(1)
                log.error("consumer.tripped", group=self.group)  # noqa: TRY400  (expected)
                await stop.wait()
            except Exception as error:
                if not (is_broker_fault(error) or is_infrastructure_fault(error)):
                    raise
                failures += 1
                metrics.FAULTS.labels(self.group, "consumer").inc()
                log.warning("consumer.waits", error=type(error).__name__)
                await pause(failures, stop)

    async def _session(self, stop: asyncio.Event, *, rewind: bool) -> bool:
        """Reads one log; gives True when it ended because the broker has another one.

        A new log is read from its beginning: an offset committed in it by a member that had not yet
        noticed the change means nothing.
        """
        cluster_id = self._watch.cluster_id
        self.processed.clear()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._kafka.bootstrap_servers,
            group_id=self.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            fetch_max_wait_ms=self._kafka.fetch_max_wait_ms,
            max_poll_records=BATCH,
            metadata_max_age_ms=10_000,
        )
        await consumer.start()
        try:
            consumer.subscribe(self.topics, listener=_Rebalance(consumer, rewind=rewind))
            while not stop.is_set():
                if self._watch.cluster_id != cluster_id:
                    return True
                await self._poll(consumer, stop)
            return False
        finally:
            await consumer.stop()

    async def _poll(self, consumer: AIOKafkaConsumer, stop: asyncio.Event) -> None:
        fetched = await consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH)
        records = [record for batch in fetched.values() for record in batch]
        self.feed.polled(
            is_full=len(records) >= BATCH,
            last_timestamp_ms=max((record.timestamp for record in records), default=None),
        )
        metrics.BEHIND_SECONDS.labels(self.group).set(self.feed.behind_seconds)
        if not records:
            return
        if not await self._apply_patiently(consumer, fetched, records, stop):
            return
        failpoint("consumer.after_commit")
        offsets = {at: batch[-1].offset + 1 for at, batch in fetched.items() if batch}
        try:
            await consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError) as error:
            # The partition went to another member, who reads the batch again and finds it applied.
            log.warning("consumer.offsets_not_committed", error=type(error).__name__)
        for at, offset in offsets.items():
            self.processed[at.topic, at.partition] = offset
        failpoint("consumer.after_offsets")

    async def _apply_patiently(
        self,
        consumer: AIOKafkaConsumer,
        fetched: Mapping[TopicPartition, Sequence[Any]],
        records: Sequence[Any],
        stop: asyncio.Event,
    ) -> bool:
        try:
            await self.apply(
                [Raw(r.topic, r.partition, r.offset, r.key, r.value, r.headers) for r in records]
            )
        except Tripped:
            raise
        except Exception as error:
            if not is_infrastructure_fault(error):
                raise
            metrics.FAULTS.labels(self.group, "consumer").inc()
            log.warning("consumer.waits", error=type(error).__name__)
            # Polling goes on, so the group does not take this member for dead.
            assigned = consumer.assignment()
            for at, batch in fetched.items():
                if batch and at in assigned:
                    consumer.seek(at, batch[0].offset)
            await pause(3, stop)
            return False
        return True

    async def apply(self, raws: Sequence[Raw]) -> None:
        """Applies messages: together, else one by one; what fails alone becomes a dead letter.

        Args:
            raws: In the order of the poll.

        Raises:
            Tripped: There was a flood of dead letters.
        """
        started = time.perf_counter()
        good: list[tuple[Raw, AnyEvent]] = []
        for raw in raws:
            try:
                good.append((raw, kafka.decode(raw.topic, raw.value, raw.headers)))
            except InvalidEvent as error:
                await self._bury(raw, "invalid", error)
        try:
            await self._transact([event for _, event in good])
            self._recent.extend([False] * len(good))
        except Exception as error:
            if is_infrastructure_fault(error):
                raise
            log.warning("consumer.batch_failed", events=len(good), error=dlq.describe(error))
            await self._one_by_one(good)
        metrics.BATCH_SECONDS.labels(self.group).observe(time.perf_counter() - started)

    async def _one_by_one(self, good: Sequence[tuple[Raw, AnyEvent]]) -> None:
        for raw, event in good:
            try:
                await self._transact([event])
                self._recent.append(False)
            except Exception as error:
                if is_infrastructure_fault(error):
                    raise
                await self._bury(raw, "handler", error)

    async def _bury(self, raw: Raw, reason: str, error: Exception) -> None:
        async with self._database.connect() as connection:
            await dlq.keep(connection, self.group, raw, reason=reason, error=error)
            failpoint("consumer.before_bury")
        failpoint("consumer.after_bury")
        metrics.DEAD.labels(self.group, raw.topic).inc()
        log.error(
            "consumer.dead_letter",
            topic=raw.topic,
            partition=raw.partition,
            offset=raw.offset,
            reason=reason,
            error=dlq.describe(error),
        )
        self._recent.append(True)
        if sum(self._recent) >= TRIP_AT:
            raise Tripped

    async def _transact(self, events: Sequence[AnyEvent]) -> None:
        if not events:
            return
        await self._months.ensure([event.time for event in events])
        now = self._clock.now()
        async with self._database.transaction({event.clinic_id for event in events}) as connection:
            fresh = await claim(connection, events)
            await handle(connection, self._handlers, self._order, fresh, now)
            failpoint("consumer.before_commit")
        metrics.REPEATED.labels(self.group).inc(len(events) - len(fresh))
        for event in fresh:
            metrics.HANDLED.labels(self.group, event.topic).inc()

    async def replay(self, letter: dlq.DeadLetter) -> None:
        """Runs the handler again on a dead letter and closes it, in one transaction.

        Args:
            letter: Open.

        Raises:
            InvalidEvent: It still is no event.
        """
        raw = letter.raw
        event = kafka.decode(raw.topic, raw.value, raw.headers)
        await self._months.ensure([event.time])
        async with self._database.transaction({event.clinic_id, letter.clinic_id}) as connection:
            fresh = await claim(connection, [event])
            await handle(connection, self._handlers, self._order, fresh, self._clock.now())
            await dlq.close(connection, letter, "replayed")


async def handle(
    connection: AsyncConnection,
    handlers: Handlers,
    order: Sequence[type[EventData]],
    events: Sequence[AnyEvent],
    now: datetime,
) -> None:
    """Gives claimed events to their handlers, type by type.

    Args:
        connection: In their transaction.
        handlers: By contract.
        order: Of the contracts.
        events: Claimed.
        now: Business time.
    """
    by_contract: dict[type[EventData], list[AnyEvent]] = {}
    for event in events:
        by_contract.setdefault(type(event.data), []).append(event)
    for contract in order:
        if batch := by_contract.get(contract):
            await handlers[contract](connection, batch, now)


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """Rewinds the partitions of a new log the first time they are assigned."""

    def __init__(self, consumer: AIOKafkaConsumer, *, rewind: bool) -> None:
        self._consumer = consumer
        self._rewind = rewind
        self._rewound: set[TopicPartition] = set()

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:  # noqa: ARG002
        failpoint("consumer.on_rebalance")

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        fresh = set(assigned) - self._rewound
        if self._rewind and fresh:
            await self._consumer.seek_to_beginning(*fresh)
            self._rewound |= fresh
