"""The relay: the only sender to Kafka.

One relay is active a lane, held by an advisory lock; a standby waits for the lock. It reads the queue
in order, sends the batch, waits for every acknowledgement and only then takes the batch off the queue:
a crash in between sends it again, and the inboxes drop the repeat. It never remembers a position: a
cursor over ascending ids loses rows whose transaction commits late.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import RecordMetadata
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Database, is_infrastructure_fault
from revisit_chassis.failpoint import failpoint
from revisit_chassis.locks import lead
from revisit_events import metrics
from revisit_events.broker import BrokerWatch, KafkaSettings, is_broker_fault
from revisit_events.retry import pause

BATCH = 500
BUSY_POLL_SECONDS = 0.005
IDLE_POLL_SECONDS = 0.05
POLL_GROWTH = 1.5
QUIET_POLLS_UNTIL_CHECK = 20
SEND_TIMEOUT_SECONDS = 30.0
LOG_CHECK_SECONDS = 10.0

_READ = """
SELECT position, topic, key, headers, data
FROM (
  SELECT clinic_id, recorded_on, position FROM outbox_unsent
  WHERE $1 = 1 OR slot % $1 = $2 ORDER BY position LIMIT $3
) AS queue
JOIN outbox USING (clinic_id, recorded_on, position)
ORDER BY position
"""
_TAKE_OFF = "DELETE FROM outbox_unsent WHERE position = ANY($1::bigint[])"
_NOTE = """
INSERT INTO relay_position AS p (topic, partition, kafka_offset)
SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[]) ORDER BY 1, 2
ON CONFLICT (topic, partition) DO UPDATE
  SET kafka_offset = greatest(p.kafka_offset, excluded.kafka_offset)
"""
_REFILL = """
INSERT INTO outbox_unsent (clinic_id, recorded_on, position, slot)
SELECT clinic_id, recorded_on, position, hashtext(key) & 63 FROM outbox
ON CONFLICT (position) DO NOTHING
"""

log = structlog.get_logger()


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
        self._database = database
        self._kafka = kafka
        self._watch = watch
        self._lane = lane
        self._lanes = lanes
        self._log_checked_at = 0.0
        self._is_asked_to_pause = False
        self.is_paused = False

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
        failures = 0
        while not stop.is_set():
            try:
                await self._watch.seen(stop)
                await self._lead(stop)
                failures = 0
            except Exception as error:
                if not (is_broker_fault(error) or is_infrastructure_fault(error)):
                    raise
                failures += 1
                metrics.FAULTS.labels(self.service, "relay").inc()
                log.warning("relay.waits", lane=self._lane, error=type(error).__name__)
                await pause(failures, stop)

    async def _lead(self, stop: asyncio.Event) -> None:
        async def work(lock: AsyncConnection) -> None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._kafka.bootstrap_servers,
                acks="all",
                enable_idempotence=self._kafka.enable_idempotence,
                linger_ms=0,
                request_timeout_ms=int(SEND_TIMEOUT_SECONDS * 1000),
            )
            await producer.start()
            try:
                await self._relay(producer, lock, stop)
            finally:
                await producer.stop()

        await lead(self._database, f"{self.service}.relay.{self._lane}", work, stop)

    async def _relay(
        self, producer: AIOKafkaProducer, lock: AsyncConnection, stop: asyncio.Event
    ) -> None:
        quiet = 0
        cluster_id: str | None = None
        while not stop.is_set():
            if self._watch.cluster_id != cluster_id:
                cluster_id = self._watch.cluster_id
                await self.notice_log(str(cluster_id))
            if self._is_asked_to_pause:
                self.is_paused = True
                await asyncio.sleep(BUSY_POLL_SECONDS)
                continue
            sent = await self.relay_batch(producer)
            if sent == BATCH:
                continue
            quiet = 0 if sent else quiet + 1
            if quiet % QUIET_POLLS_UNTIL_CHECK == QUIET_POLLS_UNTIL_CHECK - 1:
                # With the lock's connection the lock is gone: another relay may be at work.
                await lock.exec_driver_sql("SELECT 1")
                await self._check_log()
            growth = POLL_GROWTH ** min(quiet, QUIET_POLLS_UNTIL_CHECK)
            await asyncio.sleep(min(IDLE_POLL_SECONDS, BUSY_POLL_SECONDS * growth))

    async def relay_batch(self, producer: AIOKafkaProducer) -> int:
        """Sends the next batch; gives how many messages it had.

        Args:
            producer: Started.
        """
        async with self._database.connect() as connection:
            rows = (await connection.exec_driver_sql(_READ, (self._lanes, self._lane, BATCH))).all()
        if not rows:
            return 0
        failpoint("relay.before_send")
        acknowledgements = await self._send(producer, rows)
        failpoint("relay.after_ack")
        last: dict[tuple[str, int], int] = {}
        for found in acknowledgements:
            at = (found.topic, found.partition)
            last[at] = max(last.get(at, -1), found.offset)
        # Remembered before the queue shrinks, so that "nothing unsent" never runs ahead of it.
        for at, offset in last.items():
            self.acknowledged[at] = max(self.acknowledged.get(at, -1), offset)
        async with self._database.connect() as connection:
            await connection.exec_driver_sql(_TAKE_OFF, ([row.position for row in rows],))
            await connection.exec_driver_sql(
                _NOTE,
                (
                    [topic for topic, _ in last],
                    [partition for _, partition in last],
                    list(last.values()),
                ),
            )
        failpoint("relay.after_delete")
        for found in acknowledgements:
            metrics.RELAYED.labels(self.service, found.topic).inc()
        return len(rows)

    async def _send(
        self, producer: AIOKafkaProducer, rows: Sequence[Any]
    ) -> Sequence[RecordMetadata]:
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            sent = []
            for row in rows:
                headers = row.headers if isinstance(row.headers, dict) else json.loads(row.headers)
                sent.append(
                    await producer.send(
                        row.topic,
                        row.data,
                        key=row.key.encode(),
                        headers=[(name, text.encode()) for name, text in headers.items()],
                    )
                )
            failpoint("relay.mid_send")
            return await asyncio.gather(*sent)

    async def notice_log(self, cluster_id: str) -> None:
        """Refills a log that is not the one this service filled.

        Args:
            cluster_id: Of the broker.
        """
        async with self._database.connect() as connection:
            known = (
                await connection.exec_driver_sql("SELECT cluster_id FROM broker_state")
            ).scalar()
            if known == cluster_id:
                return
            await accept_cluster(connection, cluster_id)
            if known is not None:
                await self._refill(connection, "another cluster id")
                failpoint("relay.before_refill")
        failpoint("relay.after_refill")
        self.acknowledged.clear()

    async def _check_log(self) -> None:
        """Refills a log that ends before what it had acknowledged."""
        now = asyncio.get_running_loop().time()
        if now - self._log_checked_at < LOG_CHECK_SECONDS:
            return
        self._log_checked_at = now
        async with self._database.connect() as connection:
            rows = (
                await connection.exec_driver_sql(
                    "SELECT topic, partition, kafka_offset FROM relay_position"
                )
            ).all()
            noted = {TopicPartition(row.topic, row.partition): row.kafka_offset for row in rows}
            if not noted or not self._ends_before(await self._ends(list(noted)), noted):
                return
            await connection.exec_driver_sql("DELETE FROM relay_position")
            await self._refill(connection, "the log ends before what it acknowledged")
        self.acknowledged.clear()

    def _ends_before(
        self, ends: dict[TopicPartition, int], noted: dict[TopicPartition, int]
    ) -> bool:
        # The embedded broker reports an end that is too low by up to a batch (docs/adr/0014).
        slack = 0 if self._kafka.enable_idempotence else BATCH
        return any(
            ends.get(at, 0) + slack <= offset or (ends.get(at, 0) == 0 and offset >= 0)
            for at, offset in noted.items()
        )

    async def _ends(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        reader = AIOKafkaConsumer(bootstrap_servers=self._kafka.bootstrap_servers)
        await reader.start()
        try:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                ends: dict[TopicPartition, int] = await reader.end_offsets(partitions)
                return ends
        finally:
            await reader.stop()

    async def _refill(self, connection: AsyncConnection, reason: str) -> None:
        found = await connection.exec_driver_sql(_REFILL)
        metrics.REFILLS.labels(self.service).inc()
        log.warning("relay.refills", reason=reason, events=found.rowcount)


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
    """Gives how many messages wait for the relay.

    Args:
        database: With the worker's role.
    """
    async with database.single() as connection:
        found = await connection.exec_driver_sql("SELECT count(*) FROM outbox_unsent")
        return int(found.scalar_one())
