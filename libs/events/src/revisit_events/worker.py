"""A service's worker: consumer, relays, due work and upkeep in one task group.

SIGTERM sets `stop`: nothing more is fetched, the batch in hand is finished and committed, clients close.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, fetch, is_infrastructure_fault
from revisit_chassis.health import Check, database_check, serve_health
from revisit_chassis.retention import purge
from revisit_chassis.schedule import Activity, DueWork, run_schedule, schedule_check
from revisit_chassis.settings import ServiceSettings
from revisit_events import dlq, metrics, rejected
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.consumer import Consumer
from revisit_events.feed import FeedStatus
from revisit_events.handlers import Handlers
from revisit_events.inbox import first_kept_day
from revisit_events.relay import Relay, unsent

UPKEEP_SECONDS = 5.0
RETENTION_SECONDS = 600.0
MOST_COUNTED = 100_000
"""The queue is counted up to here: past it the exact number tells nobody anything and costs a scan."""
POLL_SECONDS = 0.2
PARTITION_DAYS_AHEAD = 7
EXTRA_LOG_DAYS = 30
"""The event log is kept at least this much longer than the outbox, or a refill would repeat effects."""

log = structlog.get_logger()


@dataclass(slots=True)
class Worker:
    """Everything a service does without being asked over HTTP."""

    service: str
    database: Database
    worker_database: Database
    clock: Clock
    watch: BrokerWatch
    consumer: Consumer
    relays: Sequence[Relay]
    schedule: Sequence[DueWork] = ()
    poll_seconds: float = POLL_SECONDS
    outbox_retention_days: int = 14
    event_log_retention_days: int = 0
    host: str = "127.0.0.1"
    health_port: int = 0
    at_end: Sequence[Callable[[], Awaitable[None]]] = ()
    activity: Activity = field(default_factory=Activity)
    _dropped_at: float = float("-inf")

    @property
    def checks(self) -> dict[str, Check]:
        """Checks of readiness."""
        return {
            "database": database_check(self.database),
            "broker": self.watch.check,
            "consumer": self.consumer.check,
            "schedule": schedule_check(self.activity),
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until told to stop.

        Args:
            stop: Ends everything after the piece in hand.
        """
        try:
            await self._run(stop)
        finally:
            for close in (self.database.close, self.worker_database.close, *self.at_end):
                await close()

    async def _run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.watch.run(stop))
            group.create_task(self.consumer.run(stop))
            for relay in self.relays:
                group.create_task(relay.run(stop))
            group.create_task(
                run_schedule(
                    self.schedule,
                    self.clock,
                    self.worker_database,
                    poll_seconds=self.poll_seconds,
                    stop=stop,
                    activity=self.activity,
                )
            )
            group.create_task(self._upkeep(stop))
            if self.health_port:
                group.create_task(serve_health(self.checks, self.health_port, stop, self.host))

    async def has_sent_all(self) -> bool:
        """Tells whether the outbox is empty."""
        return await unsent(self.worker_database) == 0

    async def has_due_work(self) -> bool:
        """Tells whether work that is due is not yet done, or is in hand."""
        if self.activity.running:
            return True
        now = self.clock.now()
        for kind in self.schedule:
            due_at = await kind.next_due_at()
            if due_at is not None and due_at <= now:
                return True
        return False

    async def _upkeep(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self.keep_up()
            except Exception as error:
                if not is_infrastructure_fault(error):
                    raise
                metrics.FAULTS.labels(self.service, "upkeep").inc()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UPKEEP_SECONDS):
                    await stop.wait()

    async def keep_up(self) -> None:
        """Makes the outbox's partitions ahead, drops what need not be kept, measures the queue."""
        async with self.worker_database.connect() as connection:
            await fetch(
                connection, "SELECT ensure_outbox_partitions($1::int)", PARTITION_DAYS_AHEAD
            )
        now = asyncio.get_running_loop().time()
        if now - self._dropped_at >= RETENTION_SECONDS:
            await self.drop_old()
            self._dropped_at = now
        async with self.worker_database.connect() as connection:
            (row,) = await fetch(connection, _MEASURE, MOST_COUNTED)
        metrics.OUTBOX_UNSENT.labels(self.service).set(row.waiting)
        age = 0.0 if row.oldest is None else (datetime.now(UTC) - row.oldest).total_seconds()
        metrics.OUTBOX_OLDEST_SECONDS.labels(self.service).set(age)
        metrics.UNSENDABLE_NOW.labels(self.service).set(row.unsendable)
        metrics.DEAD_OPEN.labels(self.service).set(row.dead)

    async def drop_old(self) -> None:
        """Drops days of the outbox, months of the event log, closed letters, old refusals."""
        keep_days = self.event_log_retention_days and max(
            self.event_log_retention_days, self.outbox_retention_days + EXTRA_LOG_DAYS
        )
        first_day = first_kept_day(datetime.now(UTC), keep_days)
        async with self.worker_database.connect() as connection:
            await fetch(
                connection, "SELECT drop_outbox_partitions($1::int)", self.outbox_retention_days
            )
        if first_day is not None:
            async with self.worker_database.connect() as connection:
                await fetch(connection, "SELECT drop_inbox_partitions($1::date)", first_day)
        async with self.worker_database.connect() as connection:
            await fetch(connection, dlq.DROP_CLOSED, dlq.CLOSED_RETENTION_DAYS)
            await purge(connection)
        await rejected.forget_old(self.worker_database)


_MEASURE = """
SELECT (SELECT count(*) FROM (SELECT 1 FROM outbox_unsent LIMIT $1) AS counted) AS waiting,
       (SELECT recorded_at FROM outbox
        WHERE (clinic_id, recorded_on, position) =
              (SELECT clinic_id, recorded_on, position FROM outbox_unsent ORDER BY position LIMIT 1)
       ) AS oldest,
       (SELECT count(*) FROM outbox_unsendable) AS unsendable,
       (SELECT count(*) FROM dead_letter WHERE state = 'open') AS dead
"""

Schedule = Callable[[Database, FeedStatus], Sequence[DueWork]]
"""Gives a service's due work from the worker's database and the state of its feed."""


def compose_worker(
    settings: ServiceSettings,
    clock: Clock,
    handlers: Handlers,
    schedule: Schedule | None = None,
    *,
    at_end: Sequence[Callable[[], Awaitable[None]]] = (),
) -> Worker:
    """Wires a service's worker.

    Args:
        settings: Of the service.
        clock: Business time.
        handlers: Of the service.
        schedule: Makes its due work; none has a service without.
        at_end: Closes what the service itself opened.
    """
    service = settings.service
    kafka = _kafka_settings(settings)
    watch = BrokerWatch(kafka)
    database = Database(settings.address("app"), pool_size=4, application_name=f"{service}-worker")
    worker_database = Database(
        settings.address("worker"), pool_size=10, application_name=f"{service}-worker"
    )
    consumer = Consumer(
        service, database, handlers, clock, kafka, watch, trip_at=settings.consumer_trip_at
    )
    return Worker(
        service=service,
        database=database,
        worker_database=worker_database,
        clock=clock,
        watch=watch,
        consumer=consumer,
        relays=[
            Relay(service, worker_database, kafka, watch, lane, settings.outbox_lanes)
            for lane in range(settings.outbox_lanes)
        ],
        schedule=schedule(worker_database, consumer.feed) if schedule else (),
        outbox_retention_days=settings.outbox_retention_days,
        event_log_retention_days=settings.event_log_retention_days,
        host=settings.host,
        health_port=settings.worker_port,
        at_end=at_end,
    )


def _kafka_settings(settings: ServiceSettings) -> KafkaSettings:
    """Gives how a service talks to the broker.

    Args:
        settings: Of the service.
    """
    return KafkaSettings(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        enable_idempotence=settings.kafka_enable_idempotence,
        topic_partitions=settings.kafka_topic_partitions,
        fetch_max_wait_ms=settings.kafka_fetch_max_wait_ms,
        topic_replication=settings.kafka_topic_replication,
    )
