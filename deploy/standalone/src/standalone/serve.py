"""The embedded default in the foreground: PostgreSQL, the broker and the four services behind one origin.

Start: cluster, databases, migrations, broker, catchers, workers, HTTP, the ready file. Stop (SIGTERM,
SIGINT): HTTP first, then the workers. With the embedded broker the relays pause before that and the groups
finish, and the id of the next log is noted, so that the next start sends nothing again; after a crash
everything retained is sent again and the inboxes drop the repeats. A Kafka elsewhere keeps its log: the next
start sends what is unsent. A signal that comes before all of it runs ends the start the same way.
"""

import asyncio
import errno
import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI

import booking.app
import booking.settings
import engagement.app
import engagement.settings
import feedback.app
import feedback.settings
import scoring.app
import scoring.settings
from revisit_chassis.clock import Clock, SimulatedClock, SystemClock
from revisit_chassis.db import Database
from revisit_chassis.health import QuietServer
from revisit_chassis.logs import configure_logging
from revisit_chassis.process import Http, settle_memory
from revisit_chassis.settings import ServiceSettings
from revisit_chassis.tokens import Denylist, Verifier
from revisit_events.broker import is_broker_fault
from revisit_events.topics import WrongTopic
from revisit_events.worker import Worker
from standalone.broker import Broker, EmbeddedBroker, GivenBroker, new_cluster_id
from standalone.catchers import CatcherProcess
from standalone.clock import ClockDriver, ClockFile
from standalone.cluster import Cluster, ServiceDatabase
from standalone.keys import Keys
from standalone.origin import create_origin
from standalone.signals import STOP, ignore_signals
from standalone.workers import Workers

SERVICES: Mapping[str, tuple[ModuleType, ModuleType]] = {
    "booking": (booking.app, booking.settings),
    "engagement": (engagement.app, engagement.settings),
    "feedback": (feedback.app, feedback.settings),
    "scoring": (scoring.app, scoring.settings),
}
# A Kafka elsewhere is spoken to as the environment says, as by the services themselves.
OF_THE_EMBEDDED_BROKER: Mapping[str, object] = {
    "kafka_enable_idempotence": False,
    "kafka_topic_partitions": 1,
    "kafka_fetch_max_wait_ms": 20,
}
DEFAULT_MAX_BROKER_MIB = 256


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `standalone serve` was asked for."""

    port: int
    data_dir: Path
    or_free_port: bool = False
    ready_file: Path | None = None
    is_simulated: bool = False
    start: datetime | None = None
    kafka: str | None = None
    """Address of a Kafka to be used in place of the embedded broker."""


class PortInUse(OSError):
    """Another program listens on the port."""


class KafkaUnusable(RuntimeError):
    """The Kafka that was named does not answer, or its topics are not as they must be."""


def serve(options: ServeOptions) -> int:
    """Serves until SIGTERM or SIGINT; gives the exit code, 1 when a worker failed.

    Args:
        options: Of the command line; the caller holds the data folder.

    Raises:
        PortInUse: Another program listens on the port.
        KafkaUnusable: The Kafka that was named cannot be used.
        Stopped: A signal came before the event loop could take it.
    """
    with _listening(options.port, or_free_port=options.or_free_port) as listener:
        keys = Keys(options.data_dir)
        keys.ensure()
        cluster = Cluster(options.data_dir / "postgres")
        try:
            cluster.start()
            databases = {name: cluster.create(name, name) for name in SERVICES}
            settle_memory()
            return uvloop.run(_Platform(options, keys, databases, listener).run())
        finally:
            ignore_signals()
            cluster.stop()


@contextmanager
def _listening(port: int, *, or_free_port: bool) -> Iterator[socket.socket]:
    """Takes the port before anything is started; 0 lets the system choose, and it stays ours."""
    try:
        listener = _listen(port)
    except OSError as error:
        # Taken here and not found free before: two demos may start in the same second.
        if not (or_free_port and error.errno == errno.EADDRINUSE):
            raise PortInUse(f"port {port} cannot be had: {error.strerror}") from error
        listener = _listen(0)
    with listener:
        listener.settimeout(0)
        yield listener


def _listen(port: int) -> socket.socket:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(2048)
        stack.pop_all()
        return listener


class _Platform:
    """What lives between the start of PostgreSQL and its stop."""

    def __init__(
        self,
        options: ServeOptions,
        keys: Keys,
        databases: Mapping[str, ServiceDatabase],
        listener: socket.socket,
    ) -> None:
        self._options = options
        self._keys = keys
        self._databases = databases
        self._listener = listener
        self._next_log = options.data_dir / "next-log"
        self._broker: Broker = (
            GivenBroker(options.kafka)
            if options.kafka
            else EmbeddedBroker(options.data_dir / "broker.log")
        )
        self._clock_file = ClockFile(options.data_dir / "clock.json")
        self._clock = self._make_clock()
        self._environment = dict(os.environ)

    @property
    def base_url(self) -> str:
        """The one origin."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    async def run(self) -> int:
        """Runs until a signal; gives the exit code."""
        configure_logging("standalone")
        stop = asyncio.Event()
        for number in STOP:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        catchers = None
        try:
            self._start_broker()
            catchers = self._start_catchers()
            return await self._work(stop, catchers)
        finally:
            self._broker.stop()
            if catchers is not None:
                catchers.stop()

    async def _work(self, stop: asyncio.Event, catchers: CatcherProcess | None) -> int:
        workers = Workers(
            self._make_workers,
            self._broker,
            partitions=self._settings("booking").kafka_topic_partitions,
            replication=self._settings("booking").kafka_topic_replication,
            max_mib=int(os.environ.get("EMBEDDED_BROKER_MAX_MIB", DEFAULT_MAX_BROKER_MIB)),
            wake=self._wake,
        )
        try:
            await self._start(workers)
            await self._serve(workers, stop, catchers)
        finally:
            next_cluster_id = await workers.close()
            if next_cluster_id is not None:
                self._next_log.write_text(next_cluster_id)
        return 1 if workers.failed.is_set() else 0

    async def _start(self, workers: Workers) -> None:
        try:
            await workers.start()
        except Exception as error:
            is_of_the_broker = isinstance(error, WrongTopic) or is_broker_fault(error)
            if self._broker.is_embedded or not is_of_the_broker:
                raise
            reason = str(error) or type(error).__name__
            raise KafkaUnusable(
                f"the Kafka at {self._broker.bootstrap_servers} cannot be used: {reason}"
            ) from error

    def _start_broker(self) -> None:
        if not self._broker.is_embedded:
            return
        # The id that a clean stop noted with the services; without it the log counts as lost.
        noted = self._next_log.read_text() if self._next_log.exists() else new_cluster_id()
        self._next_log.unlink(missing_ok=True)
        self._broker.start(noted)

    def _start_catchers(self) -> CatcherProcess | None:
        missing = [
            name for name in ("ENGAGEMENT_SMTP_URL", "ENGAGEMENT_SMS_URL") if name not in os.environ
        ]
        if not missing:
            return None
        catchers = CatcherProcess(self._options.data_dir / "caught")
        catchers.start()
        urls = {"ENGAGEMENT_SMTP_URL": catchers.smtp_url, "ENGAGEMENT_SMS_URL": catchers.sms_url}
        self._environment |= {name: urls[name] for name in missing}
        return catchers

    async def _serve(
        self, workers: Workers, stop: asyncio.Event, catchers: CatcherProcess | None
    ) -> None:
        driver = None
        if isinstance(self._clock, SimulatedClock):
            driver = ClockDriver(self._clock, self._clock_file, workers.settle)
        database = Database(self._databases["booking"].database_url, pool_size=1)
        verifier = Verifier(str(self._keys.jwks), Denylist())
        origin = create_origin(
            {name: self._make_app(name) for name in SERVICES},
            clock=self._clock,
            driver=driver,
            database=database,
            verifier=verifier,
            checks={"workers": workers.check},
        )
        server = QuietServer(
            uvicorn.Config(
                origin,
                http=Http,
                access_log=False,
                log_config=None,
                log_level="warning",
                timeout_graceful_shutdown=10,
                timeout_keep_alive=120,
                server_header=False,
            )
        )
        watching = asyncio.create_task(workers.watch())
        denying = asyncio.create_task(verifier.denylist.run(database))
        serving = asyncio.create_task(server.serve([self._listener]))
        stopping = asyncio.create_task(stop.wait())
        failing = asyncio.create_task(workers.failed.wait())
        try:
            ends = {stopping, serving, failing}
            await self._announce(server, workers, ends, catchers)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._options.ready_file is not None:
                self._options.ready_file.unlink(missing_ok=True)
            server.should_exit = True
            for task in (watching, denying, stopping, failing):
                task.cancel()
            await asyncio.gather(serving, watching, denying, return_exceptions=True)
            await database.close()
        if serving.done() and (error := serving.exception()) is not None:
            raise error

    async def _announce(
        self,
        server: QuietServer,
        workers: Workers,
        ends: "set[asyncio.Task[Any]]",
        catchers: CatcherProcess | None,
    ) -> None:
        """Writes the ready file when everything answers; gives up when something has ended."""
        while not server.started or await workers.check() is not None:
            done, _ = await asyncio.wait(ends, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
        content = {
            "base_url": self.base_url,
            "kafka_bootstrap_servers": self._broker.bootstrap_servers,
            "admin_token": self._keys.issue("admin", None),
            "pid": os.getpid(),
        }
        if catchers is not None:
            content["mailbox_url"] = catchers.mailbox_url
        if self._options.ready_file is not None:
            path = self._options.ready_file
            fresh = path.with_name(f".{path.name}.{os.getpid()}")
            fresh.touch(mode=0o600)
            fresh.write_text(json.dumps(content))
            fresh.replace(path)

    def _wake(self) -> None:
        if isinstance(self._clock, SimulatedClock):
            self._clock.nudge()

    def _make_clock(self) -> Clock:
        kept = self._clock_file.read()
        if not self._options.is_simulated:
            return SystemClock()
        clock = SimulatedClock(kept or self._options.start or datetime.now(UTC))
        self._clock_file.write(clock.now())
        return clock

    def _settings(self, service: str) -> ServiceSettings:
        database = self._databases[service]
        values: dict[str, object] = {
            "database_url": database.database_url,
            "worker_database_url": database.worker_database_url,
            "public_url": f"{self.base_url}/{service}",
            "kafka_bootstrap_servers": self._broker.bootstrap_servers,
            "jwks": str(self._keys.jwks),
            "keyring": str(self._keys.keyring),
        }
        if self._broker.is_embedded:
            values |= OF_THE_EMBEDDED_BROKER
        if service == "engagement":
            values |= {
                "smtp_url": self._environment["ENGAGEMENT_SMTP_URL"],
                "sms_url": self._environment["ENGAGEMENT_SMS_URL"],
                "callback_secret": self._environment.get("ENGAGEMENT_CALLBACK_SECRET")
                or self._keys.callback_secret.read_text(),
                "booking_public_url": f"{self.base_url}/booking",
                "feedback_public_url": f"{self.base_url}/feedback",
            }
        settings: ServiceSettings = SERVICES[service][1].Settings(**values)
        return settings

    def _make_app(self, service: str) -> FastAPI:
        app: FastAPI = SERVICES[service][0].create_app(self._settings(service), clock=self._clock)
        return app

    def _make_workers(self) -> Mapping[str, Worker]:
        return {
            name: modules[0].build_worker(self._settings(name), clock=self._clock)
            for name, modules in SERVICES.items()
        }
