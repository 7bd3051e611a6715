"""The platform as eight processes that can be killed, stopped and started again one by one."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
from deploy.kafka.apache_kafka import ApacheKafka

from booking.roles import scopes_of
from revisit_chassis.crypto import generate_keyring
from revisit_chassis.tokens import Signer, generate_signing_key, jwks_of
from revisit_events.topics import create_topics
from standalone.broker import EmbeddedBroker
from standalone.cluster import Cluster, ServiceDatabase
from standalone.postgres import Tuning, free_port
from tests.chaos.ledger import Clinic
from tests.chaos.nursery import Child, Nursery
from tests.chaos.process import SESSION_MS
from tests.chaos.providers import Providers
from tests.chaos.proxy import Proxy

WRITERS = 8
PATIENCE_SECONDS = 30
START_SECONDS = 60
POLL_SECONDS = 0.1
SERVICES = ("booking", "engagement", "feedback", "scoring")
KAFKA_PARTITIONS = 3
CALLBACK_SECRET = "chaos-receipts"


class Broker(Protocol):
    """What the rig needs of a broker; the embedded one and Apache Kafka both have it."""

    port: int

    @property
    def advertised_port(self) -> int: ...

    @property
    def bootstrap_servers(self) -> str: ...
    @property
    def pid(self) -> int: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def lose_log(self) -> None: ...


class Platform:
    """PostgreSQL, a broker, the providers and the processes of the four services.

    The services reach PostgreSQL and the broker through proxies; who counts goes to PostgreSQL directly.

    Args:
        folder: Takes logs and keys.
        kind: `embedded` or `kafka`. On Kafka topics have several partitions and producers are
            idempotent, which the embedded broker cannot.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind
        self.is_kafka = kind == "kafka"
        self.broker_proxy = Proxy(free_port())
        self.postgres_proxy = Proxy(free_port())
        self.broker: Broker = (
            ApacheKafka(folder / "kafka", advertised_port=self.broker_proxy.port)
            if self.is_kafka
            else EmbeddedLog(folder / "broker.log", self.broker_proxy)
        )
        self.partitions = KAFKA_PARTITIONS if self.is_kafka else 1
        self.nursery = Nursery(folder)
        self.cluster = Cluster(folder / "postgres", Tuning(durable=True))
        self.providers = Providers()
        self.processes: dict[str, Child] = {}
        self.databases: dict[str, ServiceDatabase] = {}
        self.ports = {
            f"{service}-{kind}": free_port() for service in SERVICES for kind in ("api", "worker")
        }
        self._clinics = 0
        # A client of its own for each look costs more than all else that a look does.
        self._client = httpx.AsyncClient(timeout=2)
        self._signing_key = folder / "signing-key.pem"
        self._keyring = folder / "keyring.json"
        self._jwks = folder / "jwks.json"

    async def start(self) -> None:
        """Starts everything and waits until all of it is ready."""
        generate_signing_key(self._signing_key)
        generate_keyring(self._keyring)
        self._jwks.write_text(json.dumps(jwks_of(self._signing_key)))
        await self.providers.start()
        await self.broker_proxy.start()
        await asyncio.gather(
            asyncio.to_thread(self.cluster.start), asyncio.to_thread(self.broker.start)
        )
        self.broker_proxy.target_port = self.broker.port
        self.postgres_proxy.target_port = self.cluster.server.port
        await self.postgres_proxy.start()
        if self.is_kafka:
            await create_topics(self.broker.bootstrap_servers, partitions=self.partitions)
        for service in SERVICES:
            self.databases[service] = await asyncio.to_thread(self.cluster.create, service)
            await self._count_effects(service)
            for kind in ("api", "worker"):
                self.launch(f"{service}-{kind}")
        for name in self.ports:
            await self.ready(name)

    async def stop(self) -> None:
        """Ends everything."""
        await asyncio.gather(*(asyncio.to_thread(p.stop) for p in self.processes.values()))
        await asyncio.gather(self.postgres_proxy.stop(), self.broker_proxy.stop())
        await asyncio.to_thread(self.nursery.close)
        await asyncio.gather(
            asyncio.to_thread(self.cluster.stop), asyncio.to_thread(self.broker.stop)
        )
        self.cluster.remove()
        await self.providers.stop()
        await self._client.aclose()

    def launch(
        self,
        name: str,
        *,
        failpoint: str = "",
        mutant: str = "",
        session_ms: int = SESSION_MS,
    ) -> None:
        """Starts one process, `booking-api` for instance, with a failpoint or a mutant in it.

        Args:
            name: Service and kind; `scoring-worker-b` is a second worker of scoring.
            failpoint: `name:n`, the process ends there the n-th time.
            mutant: Name of a deliberate defect of `tests.chaos.mutants`.
            session_ms: After which its group takes it for dead.
        """
        service, kind = name.split("-")[:2]
        if name not in self.ports:
            self.ports[name] = free_port()
        environment = self._environment(service) | {
            "FAILPOINT": failpoint,
            "MUTANT": mutant,
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_SESSION_MS": str(session_ms),
            f"{service.upper()}_{'PORT' if kind == 'api' else 'WORKER_PORT'}": str(
                self.ports[name]
            ),
        }
        if name in self.processes:
            self.processes[name].stop()
        log = self.folder / f"{name}.log"
        self.processes[name] = self.nursery.start(service, kind, environment, log)

    async def ready(self, name: str) -> None:
        """Waits until a process is ready."""
        deadline = time.monotonic() + START_SECONDS
        while not await self.is_ready(name):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} did not get ready")
            await asyncio.sleep(POLL_SECONDS)

    async def is_ready(self, name: str) -> bool:
        """Tells whether a process is ready now."""
        try:
            answer = await self._client.get(f"http://127.0.0.1:{self.ports[name]}/health/ready")
        except httpx.TransportError:
            return False
        return answer.status_code == httpx.codes.OK

    def url(self, service: str) -> str:
        """Address of a service's API."""
        return f"http://127.0.0.1:{self.ports[f'{service}-api']}"

    def token(self, role: str, clinic_id: uuid.UUID | None) -> str:
        """A token for a role of a clinic, or a platform token."""
        return Signer(self._signing_key).issue(
            sub="chaos",
            clinic_id=clinic_id,
            scopes=scopes_of(role, is_platform=clinic_id is None),
            role=role,
            lifetime_seconds=3600,
        )

    async def register_clinics(self, count: int, patients: int) -> list[Clinic]:
        """Registers clinics whose local time is noon, and their patients P-1, P-2, ...

        Half of the patients have an e-mail address, the others a phone.
        """
        clinics = []
        for _ in range(count):
            identity = uuid.uuid4()
            self._clinics += 1
            clinics.append(Clinic(identity, self.token("admin", identity), self._clinics))
        live_from = datetime.now(UTC) - timedelta(days=3)
        async with httpx.AsyncClient(timeout=30, base_url=self.url("booking")) as client:
            for clinic in clinics:
                body = {
                    "name": "Chaos",
                    "time_zone": zone_where_it_is_noon(datetime.now(UTC)),
                    "language": "en",
                    "country": "RU",
                    "currency": "RUB",
                    "live_from": live_from.isoformat(),
                }
                await _put(client, clinic, f"/v1/clinics/{clinic.id}", body)
        await self.register_patients(clinics, range(1, patients + 1))
        return clinics

    async def register_patients(self, clinics: Sequence[Clinic], numbers: range) -> None:
        """Registers the patients with these numbers in each clinic."""
        async with httpx.AsyncClient(timeout=30, base_url=self.url("booking")) as client:
            for clinic in clinics:
                await asyncio.gather(
                    *(_register(client, clinic, numbers[part::WRITERS]) for part in range(WRITERS))
                )

    async def _count_effects(self, service: str) -> None:
        connection = await asyncpg.connect(self.superuser_url(service))
        await connection.execute(
            "CREATE TABLE chaos_effect (clinic_id uuid, source text, event_id text, type text); "
            f'GRANT INSERT ON chaos_effect TO "{self.databases[service].roles.app}"'
        )
        await connection.close()

    async def command(self, service: str, *arguments: str) -> None:
        """Runs one of a service's commands, as an operator does."""
        environment = os.environ | self._environment(service)
        line = (sys.executable, "-m", service, *arguments)
        process = await asyncio.create_subprocess_exec(
            *line, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"{service} {arguments[0]}: {said.decode()}")

    def superuser_url(self, service: str) -> str:
        """Address of a service's database for the one who counts."""
        name = urlsplit(self.databases[service].database_url).path.lstrip("/")
        server = self.cluster.server
        return server.url(name, "postgres", server.superuser_password)

    @contextlib.contextmanager
    def suspended(self, pid: int) -> Iterator[None]:
        """Freezes a process, of the platform or not."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _environment(self, service: str) -> dict[str, str]:
        prefix, database = service.upper(), self.databases[service]
        names = {
            f"{prefix}_DATABASE_URL": self._through_proxy(database.database_url),
            f"{prefix}_WORKER_DATABASE_URL": self._through_proxy(database.worker_database_url),
            f"{prefix}_PUBLIC_URL": self.url(service),
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap_servers,
            "KAFKA_ENABLE_IDEMPOTENCE": str(self.is_kafka).lower(),
            "KAFKA_TOPIC_PARTITIONS": str(self.partitions),
            # Kafka answers as soon as there is something.
            "KAFKA_FETCH_MAX_WAIT_MS": "500" if self.is_kafka else "100",
            "REVISIT_JWKS": str(self._jwks),
            "REVISIT_KEYRING": str(self._keyring),
        }
        if service == "engagement":
            names |= {
                "ENGAGEMENT_SMTP_URL": self.providers.smtp_url,
                "ENGAGEMENT_SMS_URL": self.providers.sms_url,
                "BOOKING_PUBLIC_URL": self.url("booking"),
                "FEEDBACK_PUBLIC_URL": self.url("feedback"),
                "ENGAGEMENT_CALLBACK_SECRET": CALLBACK_SECRET,
            }
        return names

    def _through_proxy(self, url: str) -> str:
        parts = urlsplit(url)
        user, _, _ = parts.netloc.rpartition("@")
        netloc = f"{user}@127.0.0.1:{self.postgres_proxy.port}"
        return urlunsplit(parts._replace(netloc=netloc))


class EmbeddedLog(EmbeddedBroker):
    """The embedded broker as the rig sees it; every start is an empty log."""

    def __init__(self, log_path: Path, proxy: Proxy) -> None:
        super().__init__(log_path, advertised_port=proxy.port)
        self._proxy = proxy

    def listen(self, cluster_id: str | None = None) -> None:
        super().listen(cluster_id)
        # The topics are made by the address that it tells its clients.
        self._proxy.target_port = self.port

    def kill(self) -> None:
        self.stop()

    def lose_log(self) -> None:
        """Does nothing: the log is gone with the process."""


def zone_where_it_is_noon(now: datetime) -> str:
    """A fixed-offset zone in which it is between noon and one, far from the quiet hours.

    >>> zone_where_it_is_noon(datetime(2026, 1, 12, 9, 30, tzinfo=UTC))
    'Etc/GMT-3'
    """
    offset = 12 - now.hour
    if offset == 0:
        return "Etc/GMT"
    return f"Etc/GMT{-offset:+d}"


async def _register(client: httpx.AsyncClient, clinic: Clinic, numbers: range) -> None:
    for number in numbers:
        await _put(client, clinic, f"/v1/patients/P-{number}", _patient(clinic, number))


async def _put(
    client: httpx.AsyncClient, clinic: Clinic, path: str, body: Mapping[str, object]
) -> None:
    """Puts something; a service may still be getting over the fault before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        answer = await client.put(
            path, headers={"Authorization": f"Bearer {clinic.token}"}, json=body
        )
        if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR or time.monotonic() > deadline:
            answer.raise_for_status()
            return
        await asyncio.sleep(0.1)


def _patient(clinic: Clinic, number: int) -> Mapping[str, object]:
    return {
        "name": {"family": "Doe", "given": f"Patient {number}"},
        "language": "en",
        "contacts": {clinic.channel(number): clinic.recipient(number)},
    }
