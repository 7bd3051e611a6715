"""The relay: the only sender to Kafka.

One relay is active a lane, held by an advisory lock; a standby waits for the lock. It reads the queue
in order, sends the batch, waits for every acknowledgement and only then takes the batch off the queue:
a crash in between sends it again, and the inboxes drop the repeat. It never remembers a position: a
cursor over ascending ids loses rows whose transaction commits late.

A log that was lost (`notice_log`, `LogCutShort`) is refilled day by day: `outbox_refill` holds the days
that are still to be queued, and until then nothing newer than them is sent, so that the new log has the
order of the old one. What is too large or refused for good is put aside (`unsendable`), not tried for ever.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Database, fetch, is_infrastructure_fault
from revisit_chassis.failpoint import failpoint
from revisit_chassis.locks import lead
from revisit_events import metrics
from revisit_events.arrivals import Arrivals
from revisit_events.broker import BrokerWatch, KafkaSettings, is_broker_fault
from revisit_events.deadlines import finish, quietly
from revisit_events.outbox import SLOT_OF_KEY
from revisit_events.retry import pause
from revisit_events.sending import PACKAGE_BYTES, Sent, send
from revisit_events.unsendable import put_aside

BATCH = 500
BUSY_POLL_SECONDS = 0.03
SHORTEST_PAUSE_SECONDS = 0.002
IDLE_POLL_SECONDS = 0.05
POLL_GROWTH = 1.5
QUIET_POLLS = 20
"""A poll begins thirty milliseconds after the one before, or two after its end if it took longer, or at once
if it was full; looks at an empty queue grow apart to fifty.

Sooner would be later: each poll is a transaction here, an answer of the broker and a transaction of each
consumer. At 200 single events a second on two cores, of six runs in turn each, ten milliseconds gave a p99
from post to last effect of 128 ms and thirty gave 75: with ten, both cores had no time left.
"""
SEND_TIMEOUT_SECONDS = 30.0
LOG_CHECK_SECONDS = 10.0
LOCK_CHECK_SECONDS = 1.0
LOCK_TIMEOUT_SECONDS = 5.0
WITHOUT_TIMEOUT = 1e9
"""For the driver, which takes none for "the connection's usual one"; a large day takes its time."""

# The days that a lost log has still to get hold back whatever is newer (an empty table otherwise).
# A position without its row has no topic: it is put aside, or a queue full of such would stand still.
# LATERAL with an OFFSET is one look at the key a message, by any plan.
_READ = """
SELECT clinic_id, recorded_on, position, topic, key, event_id, headers, data
FROM (
  SELECT clinic_id, recorded_on, position FROM outbox_unsent
  WHERE ($1 = 1 OR slot % $1 = $2)
    AND recorded_on < coalesce((SELECT min(recorded_on) FROM outbox_refill), 'infinity')
  ORDER BY position LIMIT $3
) AS queue
LEFT JOIN LATERAL (
  SELECT topic, key, event_id, headers, data FROM outbox
  WHERE clinic_id = queue.clinic_id AND recorded_on = queue.recorded_on
    AND position = queue.position OFFSET 0
) AS message ON true
ORDER BY position
"""
# Takes a batch off the queue and notes its offsets. Under a lock on the log's identity: what another lane
# has queued for a new log since this batch was sent to the old one must stay.
_DONE = """
WITH log AS (
  SELECT cluster_id FROM broker_state FOR SHARE
), taken AS (
  DELETE FROM outbox_unsent
  WHERE position = ANY($1::bigint[])
    AND ($2::text IS NULL OR NOT EXISTS (SELECT 1 FROM log WHERE cluster_id <> $2))
), acknowledged AS (
  SELECT * FROM unnest($3::text[], $4::int[], $5::bigint[], $6::bigint[])
    AS given (topic, partition, first_offset, last_offset)
  WHERE $2::text IS NULL OR NOT EXISTS (SELECT 1 FROM log WHERE cluster_id <> $2)
), noted AS (
  SELECT topic, partition, kafka_offset FROM relay_position WHERE lane = $7
), kept AS (
  INSERT INTO relay_position AS p (topic, partition, lane, kafka_offset)
  SELECT topic, partition, $7, last_offset FROM acknowledged ORDER BY 1, 2
  ON CONFLICT (topic, partition, lane) DO UPDATE
    SET kafka_offset = greatest(p.kafka_offset, excluded.kafka_offset)
)
SELECT count(*) FROM acknowledged JOIN noted USING (topic, partition)
WHERE acknowledged.first_offset <= noted.kafka_offset
"""
# Another lane that fills the same day holds its row: then there is nothing to do here.
_FILL_DAY = f"""
WITH day AS (
  DELETE FROM outbox_refill WHERE recorded_on = (
    SELECT recorded_on FROM outbox_refill ORDER BY 1 LIMIT 1 FOR UPDATE SKIP LOCKED
  ) AND recorded_on = (SELECT min(recorded_on) FROM outbox_refill)
  RETURNING recorded_on
)
INSERT INTO outbox_unsent (clinic_id, recorded_on, position, slot)
SELECT clinic_id, recorded_on, position, {SLOT_OF_KEY} FROM outbox
WHERE recorded_on = (SELECT recorded_on FROM day) ORDER BY position
ON CONFLICT (position) DO NOTHING
"""  # noqa: S608  (a constant)

log = structlog.get_logger()


class LogCutShort(RuntimeError):
    """The log gave an offset again that it had acknowledged before: its end was lost."""


class Relay:
    """Sends one lane of a service's outbox.

    Args:
        service: For logs and metrics.
        database: With the worker's role, which sees the outbox of all clinics.
        kafka: Where to send.
        watch: Knows which log the broker is.
        lane: 0 to lanes - 1.
        lanes: In all.
    """

    def __init__(
        self,
        service: str,
        database: Database,
        kafka: KafkaSettings,
        watch: BrokerWatch,
        lane: int = 0,
        lanes: int = 1,
    ) -> None:
        self.service = service
        self.acknowledged: dict[tuple[str, int], int] = {}
        self.arrivals: Arrivals | None = None
        """Wakes the consumers in the same process."""
        self._database = database
        self._kafka = kafka
        self._watch = watch
        self._lane = lane
        self._lanes = lanes
        self._failures = 0
        self._cluster_id: str | None = None
        self._has_days_to_fill = True
        self._log_checked_at = 0.0
        self._lock_checked_at = 0.0
        self._is_asked_to_pause = False
        self._waking = asyncio.Event()
        self.is_paused = False

    def wake(self) -> None:
        """Looks at the queue now; left alone, the looks at an empty one come less and less often."""
        self._waking.set()

    def pause(self) -> None:
        """Sends nothing any more; `is_paused` tells when the batch in hand is done."""
        self._is_asked_to_pause = True

    def resume(self) -> None:
        """Sends again after `pause`."""
        self._is_asked_to_pause = False
        self.is_paused = False

    async def run(self, stop: asyncio.Event) -> None:
        """Relays until told to stop; waits out every fault of the infrastructure.

        Args:
            stop: Ends it after the batch in hand.
        """
        while not stop.is_set():
            try:
                await self._watch.seen(stop)
                await self._lead(stop)
            except Exception as error:
                if not (is_broker_fault(error) or is_infrastructure_fault(error)):
                    raise
                self._failures += 1
                metrics.FAULTS.labels(self.service, "relay").inc()
                log.warning("relay.waits", lane=self._lane, error=type(error).__name__)
                await pause(self._failures, stop)

    async def _lead(self, stop: asyncio.Event) -> None:
        async def work(lock: AsyncConnection) -> None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._kafka.bootstrap_servers,
                acks="all",
                enable_idempotence=self._kafka.enable_idempotence,
                linger_ms=0,
                max_batch_size=PACKAGE_BYTES,
                request_timeout_ms=int(SEND_TIMEOUT_SECONDS * 1000),
            )
            try:
                await finish(producer.start(), stop, SEND_TIMEOUT_SECONDS)
                if self._watch.is_embedded:
                    await finish(self._watch.bind(producer, stop), stop, SEND_TIMEOUT_SECONDS)
                await self._relay(producer, lock, stop)
            finally:
                # It waits for what it could not send; cut short, its task and sockets must end as well.
                await quietly(producer.stop(), producer._sender.close, producer.client.close)  # noqa: SLF001

        await lead(self._database, f"{self.service}.relay.{self._lane}", work, stop)

    async def _relay(
        self, producer: AIOKafkaProducer, lock: AsyncConnection, stop: asyncio.Event
    ) -> None:
        quiet = 0
        while not stop.is_set():
            await self._keep_watch(lock)
            if self._is_asked_to_pause:
                self.is_paused = True
                await asyncio.sleep(BUSY_POLL_SECONDS)
                continue
            began = time.monotonic()
            try:
                sent = await finish(self.relay_batch(producer), stop, 2 * SEND_TIMEOUT_SECONDS)
            except LogCutShort:
                # Whoever lost the lock meanwhile may owe the repeated offset to its successor.
                await self._probe(lock)
                await self._refill_the_same_log()
                continue
            self._failures = 0
            if sent or (self._has_days_to_fill and await self._fill_day()):
                quiet = 0
                if sent == BATCH:
                    continue
            else:
                quiet = min(quiet + 1, QUIET_POLLS)
            self._waking.clear()
            next_poll = min(IDLE_POLL_SECONDS, BUSY_POLL_SECONDS * POLL_GROWTH**quiet)
            with contextlib.suppress(TimeoutError):
                # From the beginning of this poll on: what a batch takes is part of the time until the next.
                left = next_poll - (time.monotonic() - began)
                async with asyncio.timeout(max(left, SHORTEST_PAUSE_SECONDS)):
                    await self._waking.wait()

    async def _keep_watch(self, lock: AsyncConnection) -> None:
        """Asks what must not go unnoticed under load either, each after its own time."""
        if self._watch.cluster_id is not None:
            await self.notice_log(self._watch.cluster_id)
        now = time.monotonic()
        if now - self._lock_checked_at >= LOCK_CHECK_SECONDS:
            self._lock_checked_at = now
            await self._probe(lock)
        if now - self._log_checked_at >= LOG_CHECK_SECONDS:
            self._log_checked_at = now
            await self._check_log()

    async def _probe(self, lock: AsyncConnection) -> None:
        # With the lock's connection the lock is gone: another relay may be at work.
        async with asyncio.timeout(LOCK_TIMEOUT_SECONDS):
            await lock.exec_driver_sql("SELECT 1")

    async def relay_batch(self, producer: AIOKafkaProducer) -> int:
        """Sends the next batch; gives how many messages it had.

        Args:
            producer: Started.

        Raises:
            LogCutShort: The broker has forgotten what it had acknowledged.
        """
        cluster_id = self._cluster_id
        rows = await self._read()
        if not rows:
            return 0
        failpoint("relay.before_send")
        sent = Sent()
        try:
            await self._send(producer, [row for row in rows if row.topic is not None], sent)
        except Exception:
            # A refusal leaves a gap in the count of an idempotent producer, for which the broker refuses
            # all that follows: tried again together with it, the rest would never get past it.
            if sent.refused:
                await self._put_aside(sent.refused)
            raise
        failpoint("relay.after_ack")
        aside = {
            row.position: "its row is gone" for row in rows if row.topic is None
        } | sent.refused
        # Remembered before the queue shrinks, so that "nothing unsent" never runs ahead of it.
        for at, offset in sent.last.items():
            self.acknowledged[at] = max(self.acknowledged.get(at, -1), offset)
        if self.arrivals is not None:
            self.arrivals.ring()
        if aside:
            await self._put_aside(aside)
        async with self._database.single() as connection:
            ((repeated,),) = await fetch(
                connection,
                _DONE,
                [row.position for row in rows if row.position not in aside],
                cluster_id,
                [topic for topic, _ in sent.last],
                [partition for _, partition in sent.last],
                list(sent.first.values()),
                list(sent.last.values()),
                self._lane,
            )
        failpoint("relay.after_delete")
        for topic, number in sent.topics.items():
            metrics.RELAYED.labels(self.service, topic).inc(number)
        if repeated:
            raise LogCutShort
        return len(rows)

    async def _read(self) -> Sequence[Any]:
        lanes = self._lanes
        if self._watch.is_embedded:
            # Of two batches on their way into one of its partitions readers may miss the one (docs/adr/0014).
            if self._lane:
                return []
            lanes = 1
        async with self._database.single() as connection:
            return await fetch(connection, _READ, lanes, self._lane, BATCH)

    async def _send(self, producer: AIOKafkaProducer, rows: Sequence[Any], sent: Sent) -> None:
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            await send(producer, rows, self._kafka.topic_partitions, sent)

    async def _put_aside(self, aside: dict[int, str]) -> None:
        async with self._database.connect() as connection:
            await put_aside(connection, aside)
        metrics.UNSENDABLE.labels(self.service).inc(len(aside))
        for position, reason in aside.items():
            log.error("relay.unsendable", position=position, reason=reason)

    async def notice_log(self, cluster_id: str) -> None:
        """Refills a log that is not the one this service filled.

        Args:
            cluster_id: Of the broker.
        """
        if cluster_id == self._cluster_id:
            return
        async with self._database.connect() as connection:
            known = (
                await connection.exec_driver_sql("SELECT cluster_id FROM broker_state FOR UPDATE")
            ).scalar()
            if known != cluster_id:
                await accept_cluster(connection, cluster_id)
                if known is not None:
                    await connection.exec_driver_sql("SELECT mark_outbox_refill()")
                    failpoint("relay.before_refill")
        failpoint("relay.after_refill")
        if known not in {None, cluster_id}:
            self._refills("another cluster id")
        if self._cluster_id is not None or known not in {None, cluster_id}:
            # Another lane may have been the one to notice; these offsets are the old log's all the same.
            self.acknowledged.clear()
        self._cluster_id = cluster_id

    async def _check_log(self) -> None:
        """Refills a log that ends before what it had acknowledged."""
        async with self._database.connect() as connection:
            rows = (
                await connection.exec_driver_sql(
                    "SELECT topic, partition, max(kafka_offset) AS kafka_offset "
                    "FROM relay_position GROUP BY topic, partition"
                )
            ).all()
        noted = {TopicPartition(row.topic, row.partition): row.kafka_offset for row in rows}
        if noted and self._ends_before(await self._ends(list(noted)), noted):
            await self._refill_the_same_log()

    async def _refill_the_same_log(self) -> None:
        async with self._database.connect() as connection:
            await connection.exec_driver_sql("DELETE FROM relay_position")
            await connection.exec_driver_sql("SELECT mark_outbox_refill()")
        self._refills("the log ends before what it acknowledged")
        self.acknowledged.clear()

    def _ends_before(
        self, ends: dict[TopicPartition, int], noted: dict[TopicPartition, int]
    ) -> bool:
        # The embedded broker reports an end that is too low by up to a batch (docs/adr/0014).
        slack = BATCH if self._watch.is_embedded else 0
        return any(
            ends.get(at, 0) + slack <= offset or (ends.get(at, 0) == 0 and offset >= 0)
            for at, offset in noted.items()
        )

    async def _ends(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        reader = AIOKafkaConsumer(bootstrap_servers=self._kafka.bootstrap_servers)
        try:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                await reader.start()
                ends: dict[TopicPartition, int] = await reader.end_offsets(partitions)
                return ends
        finally:
            await quietly(reader.stop(), reader._client.close)  # noqa: SLF001

    def _refills(self, reason: str) -> None:
        """Told after the commit: whoever sees the metric finds the days marked."""
        self._has_days_to_fill = True
        metrics.REFILLS.labels(self.service).inc()
        log.warning("relay.refills", reason=reason)

    async def _fill_day(self) -> bool:
        """Queues the oldest day that a lost log has still to get; False when there is none.

        A statement a day, without a deadline: one for all of a large outbox would never end in time,
        and a crash begins the day in hand again, not the whole.
        """
        async with self._database.connect() as connection:
            day = await connection.exec_driver_sql("SELECT min(recorded_on) FROM outbox_refill")
            if day.scalar_one() is None:
                self._has_days_to_fill = False
                return False
        await without_timeout(self._database, _FILL_DAY)
        return True


async def without_timeout(database: Database, statement: str, *arguments: object) -> int:
    """Runs a statement that may read whole tables, as long as it takes; gives how many rows it changed.

    Args:
        database: With the worker's role.
        statement: A transaction of its own, on a connection of its own.
        arguments: Of the statement.
    """
    async with database.alone() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        if driver is None:
            raise ConnectionError("there is no connection")
        # A whole day is read on purpose (ADR 0052).
        await driver.execute("SET enable_seqscan = on")
        status = await driver.execute(statement, *arguments, timeout=WITHOUT_TIMEOUT)
    return int(status.rpartition(" ")[2])


async def accept_cluster(connection: AsyncConnection, cluster_id: str) -> None:
    """Notes that the outbox fills this log from here on; nothing before it is sent again.

    Args:
        connection: With the worker's role.
        cluster_id: Of the log.
    """
    await connection.exec_driver_sql(
        "INSERT INTO broker_state (cluster_id) VALUES ($1) "
        "ON CONFLICT (only_row) DO UPDATE SET cluster_id = excluded.cluster_id, noticed_at = now()",
        (cluster_id,),
    )
    await connection.exec_driver_sql("DELETE FROM relay_position")


async def unsent(database: Database) -> int:
    """Gives how many messages wait for the relay; a day that is still to be queued counts as one.

    Args:
        database: With the worker's role.
    """
    async with database.single() as connection:
        found = await connection.exec_driver_sql(
            "SELECT (SELECT count(*) FROM outbox_unsent) + (SELECT count(*) FROM outbox_refill)"
        )
        return int(found.scalar_one())
