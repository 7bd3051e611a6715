"""The rig: one PostgreSQL cluster and one broker, and processes started, watched and ended on them."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from booking.roles import scopes_of
from revisit_chassis.crypto import generate_keyring
from revisit_chassis.tokens import Signer, generate_signing_key, jwks_of
from standalone.broker import EmbeddedBroker
from standalone.cluster import Cluster, ServiceDatabase
from standalone.postgres import Tuning, free_port

ROOT = Path(__file__).parent.parent
SERVICES = ("booking", "engagement", "feedback", "scoring")
TOPIC = "visit.completed"
START_TIMEOUT_SECONDS = 60


@dataclass(slots=True)
class Process:
    """A process of the rig, with what is needed to start it again."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    running: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Starts it (again)."""
        with self.log.open("ab") as output:
            self.running = subprocess.Popen(
                self.command,
                env=os.environ | self.environment,
                stdout=output,
                stderr=output,
                cwd=ROOT,
            )

    def kill(self) -> None:
        """Ends it like a crash."""
        self.running.kill()
        self.running.wait()

    def stop(self) -> None:
        """Ends it cleanly."""
        if self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)
            try:
                self.running.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill()

    def memory_mib(self) -> float:
        """Resident memory in MiB."""
        pages = int(Path(f"/proc/{self.running.pid}/statm").read_text().split()[1])
        return pages * 4096 / 2**20


class Rig:
    """Everything a measurement needs; a context manager that ends what it started."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="revisit-bench-")
        self.folder = Path(self._folder.name)
        self.cluster = Cluster(
            self.folder / "postgres", Tuning(max_connections=300, commit_times=True)
        )
        self._started: list[Process] = []
        self._numbers = iter(range(1_000_000))
        self.signing_key = self.folder / "signing-key.pem"
        self.keyring = self.folder / "keyring.json"
        self.jwks = self.folder / "jwks.json"
        self.broker = EmbeddedBroker(self.folder / "broker.log")

    def __enter__(self) -> "Rig":
        generate_signing_key(self.signing_key)
        generate_keyring(self.keyring)
        self.jwks.write_text(json.dumps(jwks_of(self.signing_key)))
        self.cluster.start()
        self.broker.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.stop()
        self.broker.stop()
        self.cluster.stop()
        self.cluster.remove()
        self._folder.cleanup()

    def fresh_broker(self) -> None:
        """An empty broker, so that no run reads what another one wrote."""
        self.broker.stop()
        self.broker = EmbeddedBroker(self.folder / "broker.log")
        self.broker.start()

    def tokens(self, clinics: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
        """A token of the clinic's system for each clinic."""
        signer = Signer(self.signing_key)
        return {
            clinic_id: signer.issue(
                sub="bench",
                clinic_id=clinic_id,
                scopes=scopes_of("clinic_system", is_platform=False),
                role="clinic_system",
                lifetime_seconds=24 * 3600,
            )
            for clinic_id in clinics
        }

    def platform_token(self) -> str:
        """A token that registers clinics."""
        return Signer(self.signing_key).issue(
            sub="bench",
            clinic_id=None,
            scopes=scopes_of("admin", is_platform=True),
            role="admin",
            lifetime_seconds=24 * 3600,
        )

    def database(self, service: str) -> ServiceDatabase:
        """A fresh, migrated database of a service."""
        return self.cluster.create(service)

    def bare_database(self) -> str:
        """A fresh database with the tables of the bare scripts; gives its address."""
        name = f"bare_{uuid.uuid4().hex[:8]}"
        schema = (ROOT / "bench" / "bare" / "schema.sql").read_text()
        url = self.cluster.server.url(name, "postgres", self.cluster.server.superuser_password)

        async def create() -> None:
            connection = await asyncpg.connect(self.cluster.superuser_url)
            await connection.execute(f"CREATE DATABASE {name}")
            await connection.close()
            connection = await asyncpg.connect(url)
            await connection.execute(schema)
            await connection.close()

        asyncio.run(create())
        return url

    def checkpoint(self) -> None:
        """Writes out what making databases and starting have left, so that no run pays for it."""

        async def run() -> None:
            connection = await asyncpg.connect(self.cluster.superuser_url)
            await connection.execute("CHECKPOINT")
            await connection.close()

        asyncio.run(run())

    def start(self, *command: str, environment: dict[str, str] | None = None) -> Process:
        """Starts a Python module of the project as a process."""
        process = Process(
            [sys.executable, "-m", *command],
            environment or {},
            self.folder / f"{next(self._numbers)}-{command[0]}.log",
        )
        self._started.append(process)
        return process

    def start_api(self, service: str, database: ServiceDatabase) -> tuple[Process, int]:
        """Starts a service's API and waits until it is ready; gives the process and its port."""
        port = free_port()
        process = self.start(
            service,
            "api",
            environment=self.environment(service, database)
            | {f"{service.upper()}_PORT": str(port)},
        )
        wait_for_url(f"http://127.0.0.1:{port}/health/ready")
        return process, port

    def start_worker(self, service: str, database: ServiceDatabase) -> Process:
        """Starts a service's worker and waits until it is ready to consume."""
        port = free_port()
        process = self.start(
            service,
            "worker",
            environment=self.environment(service, database)
            | {f"{service.upper()}_WORKER_PORT": str(port)},
        )
        wait_for_url(f"http://127.0.0.1:{port}/health/ready")
        return process

    def environment(self, service: str, database: ServiceDatabase) -> dict[str, str]:
        """Configuration of one service on this rig."""
        prefix = service.upper()
        names = {
            f"{prefix}_DATABASE_URL": database.database_url,
            f"{prefix}_WORKER_DATABASE_URL": database.worker_database_url,
            f"{prefix}_PUBLIC_URL": "http://127.0.0.1:8080",
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap_servers,
            "KAFKA_ENABLE_IDEMPOTENCE": "false",
            "KAFKA_TOPIC_PARTITIONS": "1",
            "KAFKA_FETCH_MAX_WAIT_MS": "10",
            "REVISIT_JWKS": str(self.jwks),
            "REVISIT_KEYRING": str(self.keyring),
        }
        if service == "engagement":
            names |= {
                "ENGAGEMENT_SMTP_URL": "smtp://127.0.0.1:1",
                "ENGAGEMENT_SMS_URL": "http://127.0.0.1:1/sms",
                "FEEDBACK_PUBLIC_URL": "http://127.0.0.1:8080/feedback",
                "BOOKING_PUBLIC_URL": "http://127.0.0.1:8080/booking",
            }
        return names

    @contextlib.contextmanager
    def processes(self) -> Iterator[None]:
        """Ends at its exit what was started inside it."""
        before = len(self._started)
        try:
            yield
        finally:
            for process in self._started[before:]:
                process.stop()
            del self._started[before:]


def wait_for_url(url: str) -> None:
    """Waits until a page answers 200."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):  # noqa: SIM117
            with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  (loopback)
                if answer.status == 200:
                    return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} did not answer")
        time.sleep(0.02)


def wait_for_port(port: int) -> None:
    """Waits until something listens."""
    import socket  # noqa: PLC0415

    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on port {port}")
        time.sleep(0.02)


async def wait_for_count(url: str, table: str, count: int, timeout_seconds: float = 300) -> float:
    """Waits until a table has that many rows; gives the moment (perf_counter) it had.

    The count is read with a growing pause near its end only, so that reading costs little.
    """
    connection = await asyncpg.connect(url)
    deadline = time.perf_counter() + timeout_seconds
    try:
        while True:
            rows = await connection.fetchval(f"SELECT count(*) FROM {table}")
            now = time.perf_counter()
            if rows >= count:
                return now
            if now > deadline:
                raise TimeoutError(f"{table} has {rows} of {count} rows")
            await asyncio.sleep(0.02 if rows > count * 0.9 else 0.1)
    finally:
        await connection.close()
