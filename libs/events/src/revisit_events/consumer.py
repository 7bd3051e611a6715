"""The consumer: fetch, claim and apply in a transaction, commit, then commit the offsets.

Everything that one poll gives, of all topics and partitions, is one batch. With many quiet topics of few
partitions this is what makes batches, and one transaction a message is sixteen times slower than one a
batch. A batch of hundreds of events and several clinics is applied in parts beside each other
(`reading.parts_of`), each with clinics and a transaction of its own: the database works on one while
the handlers prepare another. Offsets are committed when all are done. If a part fails, it is
tried in pieces, and each event of a piece that fails in its own transaction: the one that fails alone
becomes a dead letter. A fault of the infrastructure fails no event: the consumer goes back to where it was
and waits.

While there is a backlog, the next batch is fetched and decoded while the present one is applied. On
the embedded broker a consumer that has applied everything rests until the relays beside it have sent more
(`arrivals`).

A log with another cluster id is read from its beginning, partition by partition: the mark of each
(`feed`) says which log it was last read from.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, is_infrastructure_fault
from revisit_chassis.failpoint import failpoint
from revisit_events import attempts, dlq, metrics
from revisit_events.arrivals import Arrivals
from revisit_events.broker import (
    LOST_PARTITION,
    AssignmentListener,
    BrokerWatch,
    KafkaSettings,
    is_broker_fault,
)
from revisit_events.catalog import topic_of
from revisit_events.deadlines import finish, quietly
from revisit_events.dlq import Raw
from revisit_events.effects import Effects
from revisit_events.envelope import InvalidEvent
from revisit_events.feed import NEVER, FeedMarks, FeedStatus, Mark, Partition
from revisit_events.handlers import Handlers
from revisit_events.reading import Batch, Good, Read, Reading, parts_of, reader_of
from revisit_events.retry import pause

START_TIMEOUT_SECONDS = 30.0
COMMIT_TIMEOUT_SECONDS = 10.0
MARK_SECONDS = 1.0
PIECE_EVENTS = 50
"""Of a part that failed: nearly all of its events are good, and cost a transaction a piece."""
TRIP_WINDOW = 200
TRIP_AT = 100

log = structlog.get_logger()


class Tripped(RuntimeError):
    """So many messages are bad that the fault is likely ours: the consumer stopped."""


class Consumer:
    """A service's one consumer group.

    Args:
        group: Name of the group and the service.
        database: With the service's user.
        handlers: By contract; the topics follow from it.
        clock: Business time, given to handlers.
        kafka_settings: Where to read.
        watch: Knows which log the broker is.
        trip_at: Stops at so many new dead letters among the last two hundred messages; 0 never does.
    """

    def __init__(
        self,
        group: str,
        database: Database,
        handlers: Handlers,
        clock: Clock,
        kafka_settings: KafkaSettings,
        watch: BrokerWatch,
        *,
        trip_at: int = TRIP_AT,
    ) -> None:
        self.group = group
        self.feed = FeedStatus(watch)
        self.processed: dict[Partition, int] = {}
        self.is_tripped = False
        self.arrivals: Arrivals | None = None
        """What the relays have sent, where all are in this process and the broker is the embedded one."""
        self._database = database
        self._effects = Effects(group, database, handlers, clock)
        self._kafka = kafka_settings
        self._watch = watch
        self._trip_at = trip_at
        self._marks = FeedMarks(database, group)
        self._marked_at = 0.0
        self._failures = 0
        self._settled: set[TopicPartition] = set()
        self._begun: set[TopicPartition] = set()
        self._reading: Reading | None = None
        self._recent: deque[bool] = deque(maxlen=TRIP_WINDOW)

    @property
    def topics(self) -> list[str]:
        """Topics the group reads."""
        return [topic_of(contract.TYPE) for contract in self._effects.contracts]

    def has_applied(self, acknowledged: Mapping[Partition, int]) -> bool:
        """Tells whether the group has applied all that relays had acknowledged.

        Args:
            acknowledged: Last offset in each partition, of any service's relays.
        """
        if self._reading is None or self._reading.cluster_id != self._watch.cluster_id:
            # Its offsets are those of a log that the relays no longer speak of.
            return False
        topics = set(self.topics)
        return all(
            self.processed.get(at, 0) > offset
            for at, offset in acknowledged.items()
            if at[0] in topics
        )

    async def check(self) -> str | None:
        """Gives what is wrong, for readiness."""
        if self.is_tripped:
            return "tripped by a flood of dead letters"
        return None if self.feed.is_current() else "behind its topics or cut off from them"

    async def run(self, stop: asyncio.Event) -> None:
        """Consumes until told to stop; waits out every fault of the infrastructure.

        Args:
            stop: Ends it after the batch in hand.
        """
        while not stop.is_set():
            try:
                await self._watch.seen(stop)
                if stop.is_set():
                    return
                if await self._marks.open():
                    await self._session(stop)
                else:
                    log.warning("consumer.waits_for_rebuild", group=self.group)
                    await self._pause(stop)
            except Tripped:
                self.is_tripped = True
                metrics.TRIPPED.labels(self.group).set(1)
                log.error("consumer.tripped", group=self.group)  # noqa: TRY400  (expected)
                await stop.wait()
            except Exception as error:
                if not (is_broker_fault(error) or is_infrastructure_fault(error)):
                    raise
                metrics.FAULTS.labels(self.group, "consumer").inc()
                log.warning("consumer.waits", error=type(error).__name__)
                await self._pause(stop)
            finally:
                await self._marks.close()

    async def _pause(self, stop: asyncio.Event) -> None:
        self._failures += 1
        await pause(self._failures, stop)

    async def _session(self, stop: asyncio.Event) -> None:
        """Reads one log, until the broker has another one."""
        cluster_id = str(self._watch.cluster_id)
        self.processed.clear()
        self._settled.clear()
        self._begun.clear()
        reader = reader_of(self.group, self._kafka)
        reading = self._reading = Reading(reader, cluster_id)
        try:
            await finish(reader.start(), stop, START_TIMEOUT_SECONDS)
            reader.subscribe(
                self.topics, listener=AssignmentListener(self._assigned, self._revoked)
            )
            while not stop.is_set() and self._watch.cluster_id == cluster_id:
                if self._watch.is_reachable and reading.is_cut_off():
                    raise TimeoutError
                await self._settle_in(reader, reading, cluster_id)
                if await self._keep_marks(reader, cluster_id, stop):
                    if self.arrivals is not None and self.has_applied(self.arrivals.newest()):
                        await reading.rest(self.arrivals, stop)
                    await self._work(reader, reading, await reading.next(), stop)
        finally:
            await reading.drop_ahead()
            await quietly(reader.stop(), reader._client.close)  # noqa: SLF001

    def _assigned(self, partitions: set[TopicPartition]) -> None:
        self._reassigned()
        self._settled -= partitions
        # Whoever had them may have died of what comes next.
        self._begun -= partitions

    def _revoked(self, partitions: set[TopicPartition]) -> None:
        self._reassigned()
        self._settled -= partitions
        for at in partitions:
            self.processed.pop((at.topic, at.partition), None)

    def _reassigned(self) -> None:
        if self._reading is not None:
            self._reading.assignment += 1

    async def _settle_in(self, reader: AIOKafkaConsumer, reading: Reading, cluster_id: str) -> None:
        """Finds where newly assigned partitions go on; those of a new log go on at their beginning.

        What was committed before counts as applied: without it a group to which nothing more comes
        would never be known to have caught up. In a new log an offset may have been committed by a
        member that had not yet noticed the change: it means nothing, and is overwritten before the
        mark says that the partition belongs to this log.
        """
        if set(reader.assignment()) - self._settled:
            await reading.drop_ahead()
        fresh = set(reader.assignment()) - self._settled
        if not fresh:
            return
        old = {at for at in fresh if self._is_of_another_log(at, cluster_id)}
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                if old:
                    await reader.seek_to_beginning(*old)
                positions = {at: await reader.position(at) for at in fresh}
                if old:
                    await reader.commit({at: positions[at] for at in old})
        except LOST_PARTITION:
            return
        for at, offset in positions.items():
            self.processed[at.topic, at.partition] = offset
        self._settled |= fresh
        # However short the session is: which log it read must be known to the next one.
        self._marked_at = 0.0

    def _is_of_another_log(self, at: TopicPartition, cluster_id: str) -> bool:
        mark = self._marks.known.get((at.topic, at.partition))
        return mark is not None and mark.cluster_id != cluster_id

    async def _keep_marks(
        self, reader: AIOKafkaConsumer, cluster_id: str, stop: asyncio.Event
    ) -> bool:
        """Writes and reads the marks once a second; False while the consumer must not work."""
        now = time.monotonic()
        if now - self._marked_at < MARK_SECONDS:
            return True
        self._marked_at = now
        own = {}
        for at in reader.assignment() & self._settled:
            key = (at.topic, at.partition)
            own[key] = self.feed.of(
                key,
                position=self.processed.get(key),
                end=reader.highwater(at),
                asked_ms=reader.last_poll_timestamp(at),
            )
        try:
            # The lock went with its connection, so a rebuild may have begun: then it is waited for. The
            # group is not left meanwhile: its heartbeat has a task of its own.
            if not await self._marks.open():
                self._marked_at = 0.0
                await self._pause(stop)
                return False
            await self._marks.note(cluster_id, own)
        except Exception as error:
            if not is_infrastructure_fault(error):
                raise
            metrics.FAULTS.labels(self.group, "consumer").inc()
            log.warning("consumer.waits", error=type(error).__name__)
            self._marked_at = 0.0
            await self._pause(stop)
            return False
        self.feed.noted(own.values(), self._freshness(reader, cluster_id))
        metrics.BEHIND_SECONDS.labels(self.group).set(self.feed.behind_seconds)
        return True

    def _freshness(self, reader: AIOKafkaConsumer, cluster_id: str) -> Iterator[float]:
        """Gives until when each partition of the group's topics is applied, whoever reads it."""
        unknown = Mark("", NEVER)
        for topic in self.topics:
            numbers = reader.partitions_for_topic(topic)
            if not numbers:
                yield NEVER
                continue
            for number in numbers:
                mark = self._marks.known.get((topic, number), unknown)
                yield mark.fresh_at if mark.cluster_id == cluster_id else NEVER

    async def _work(
        self, reader: AIOKafkaConsumer, reading: Reading, batch: Batch, stop: asyncio.Event
    ) -> None:
        """Applies a batch and commits its offsets."""
        if batch.assignment != reading.assignment or batch.fetched.keys() - self._settled:
            # What was assigned while the poll waited is read again once it is known where it goes on.
            reading.give_back(batch.fetched)
            return
        if batch.has_more and not stop.is_set():
            reading.read_ahead()
        if batch.reads and not await self._apply_patiently(reader, batch):
            # The later batch first: of two positions in a partition the earlier one is to stand.
            await reading.drop_ahead()
            reading.give_back(batch.fetched)
            await self._pause(stop)
            return
        self._failures = 0
        if batch.reads:
            failpoint("consumer.after_commit")
            offsets = {at: found[-1].offset + 1 for at, found in batch.fetched.items() if found}
            await self._commit(reader, offsets)
            for at, offset in offsets.items():
                self.processed[at.topic, at.partition] = offset
                self.feed.applied((at.topic, at.partition), batch.fetched[at][-1].timestamp)
            failpoint("consumer.after_offsets")
        self.feed.polled(len(batch.reads), is_full=batch.is_full, has_more=batch.has_more)

    async def _commit(
        self, reader: AIOKafkaConsumer, offsets: Mapping[TopicPartition, int]
    ) -> None:
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_SECONDS):
                await reader.commit(dict(offsets))
        except LOST_PARTITION as error:
            log.warning("consumer.offsets_not_committed", error=type(error).__name__)

    async def _apply_patiently(self, reader: AIOKafkaConsumer, batch: Batch) -> bool:
        reads = batch.reads
        try:
            first = [at for at, found in batch.fetched.items() if found and at not in self._begun]
            if first:
                reads = await self._begin(reader, batch, first)
            await self.apply(reads)
            if first:
                await attempts.end(self._database, first)
                self._begun.update(first)
        except Tripped:
            raise
        except Exception as error:
            if not is_infrastructure_fault(error):
                raise
            metrics.FAULTS.labels(self.group, "consumer").inc()
            log.warning("consumer.waits", error=type(error).__name__)
            # Polling goes on, so the group does not take this member for dead.
            return False
        return True

    async def _begin(
        self, reader: AIOKafkaConsumer, batch: Batch, first: Sequence[TopicPartition]
    ) -> Sequence[Read]:
        """Handles with care what processes may have died of; gives what is left."""
        offsets = {at: batch.fetched[at][0].offset for at in first}
        careful = await attempts.begin(self._database, offsets)
        if not careful:
            return batch.reads
        left: list[Read] = []
        by_partition: dict[TopicPartition, list[Read]] = {}
        for read in batch.reads:
            at = TopicPartition(read.record.topic, read.record.partition)
            (by_partition.setdefault(at, []) if at in careful else left).append(read)
        for at, reads in by_partition.items():
            await self._one_at_a_time(reader, at, reads)
        return left

    async def _one_at_a_time(
        self, reader: AIOKafkaConsumer, at: TopicPartition, reads: Sequence[Read]
    ) -> None:
        log.warning("consumer.careful", topic=at.topic, partition=at.partition)
        for read in reads:
            if await attempts.is_deadly(self._database, at, read.record.offset):
                await self._bury(read.raw, "deadly", attempts.DiedOfIt())
            else:
                await self.apply([read])
            await attempts.end(self._database, [at])
            await self._commit(reader, {at: read.record.offset + 1})

    async def apply(self, reads: Sequence[Read]) -> None:
        """Applies events: together, else one by one; what fails alone becomes a dead letter.

        Args:
            reads: In the order of the poll.

        Raises:
            Tripped: There was a flood of dead letters.
        """
        started = time.perf_counter()
        good: list[Good] = []
        for read in reads:
            if isinstance(read.event, InvalidEvent):
                await self._bury(read.raw, "invalid", read.event)
            else:
                good.append((read, read.event))
        # None is left running: what it applies must be known before the offsets are.
        ended = await asyncio.gather(
            *(self._apply_part(part) for part in parts_of(good)), return_exceptions=True
        )
        faults = [one for one in ended if isinstance(one, BaseException)]
        if faults:
            raise min(faults, key=lambda one: not isinstance(one, Tripped))
        if all(ended):
            # Beside a part that failed the good ones are not counted: they may have come before its
            # letters, and would push them out of the trip wire's sight.
            self._recent.extend([False] * len(good))
        metrics.BATCH_SECONDS.labels(self.group).observe(time.perf_counter() - started)

    async def _apply_part(self, good: Sequence[Good]) -> bool:
        """Tells whether the events were applied together; else the trip wire has counted each."""
        if await self._apply_together(good):
            return True
        for place in range(0, len(good), PIECE_EVENTS):
            piece = good[place : place + PIECE_EVENTS]
            if len(piece) < len(good) and await self._apply_together(piece):
                self._recent.extend([False] * len(piece))
            else:
                await self._one_by_one(piece)
        return False

    async def _apply_together(self, good: Sequence[Good]) -> bool:
        """Tells whether the events were applied, in one transaction."""
        try:
            await self._effects.apply([event for _, event in good])
        except Exception as error:
            if is_infrastructure_fault(error):
                raise
            log.warning("consumer.batch_failed", events=len(good), error=dlq.describe(error))
            return False
        return True

    async def _one_by_one(self, good: Sequence[Good]) -> None:
        for read, event in good:
            try:
                await self._effects.apply([event])
                self._recent.append(False)
            except Exception as error:
                if is_infrastructure_fault(error):
                    raise
                await self._bury(read.raw, "handler", error)

    async def _bury(self, raw: Raw, reason: str, error: Exception) -> None:
        async with self._database.connect() as connection:
            tries = await dlq.keep(connection, self.group, raw, reason=reason, error=error)
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
        # A letter that is there already is no news of a flood: it comes again after a restart, a
        # rebalance or a refill, and a consumer that tripped over it must get past it.
        self._recent.append(tries == 1)
        if self._trip_at and sum(self._recent) >= self._trip_at:
            raise Tripped
