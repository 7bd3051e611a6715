"""Standalone as an operator starts it: a process, a data folder, a ready file; on either broker."""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from deploy.kafka.apache_kafka import ApacheKafka

from standalone.placement import Placement

START = "2026-01-12T06:00:00Z"
TIMEOUT_SECONDS = 120
BATCH_TYPE = "application/cloudevents-batch+json"


@dataclass(slots=True)
class Standalone:
    """A running platform, seen from outside."""

    folder: Path
    kafka: str | None = None
    process: subprocess.Popen[bytes] | None = None
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "standalone.log"

    @property
    def ready_file(self) -> Path:
        # One name for every start, as an operator's script has it.
        return self.folder / "ready.json"

    def launch(
        self,
        environment: Mapping[str, str] | None = None,
        clock: Sequence[str] = ("--clock", "simulated", "--start", START),
    ) -> None:
        """Starts the process without waiting for it."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ENGAGEMENT_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "standalone", "serve", "--port", "0"),
                    *("--data-dir", str(self.data_dir), "--ready-file", str(self.ready_file)),
                    *clock,
                    *(("--kafka", self.kafka) if self.kafka else ()),
                ],
                stdout=log,
                stderr=log,
                env=kept | dict(environment or {}),
            )

    def start(
        self,
        environment: Mapping[str, str] | None = None,
        clock: Sequence[str] = ("--clock", "simulated", "--start", START),
    ) -> None:
        self.launch(environment, clock)
        assert self.process is not None
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not self._is_ready():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        # The file of a crashed start is there until the new process has read its command line.
        if not self.ready_file.exists():
            return False
        self.ready = json.loads(self.ready_file.read_text())
        return self.process is not None and self.ready["pid"] == self.process.pid

    def stop(self, *, kill: bool = False) -> int | None:
        """Ends the process; gives its exit code, none when it did not run."""
        if self.process is None:
            return None
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        code = self.process.wait(timeout=TIMEOUT_SECONDS)
        self.process = None
        return code

    def remove(self) -> None:
        """Removes the stopped platform's data, which for root lies outside the folder."""
        Placement(self.data_dir / "postgres").remove()

    def sql(self, service: str, statement: str) -> None:
        """Runs a statement as the superuser in a service's database."""
        # The port stands in the server's own file; the password where the platform keeps it.
        folder = self.data_dir / "postgres"
        cluster = Placement(folder).cluster_dir()
        port = (cluster / "postmaster.pid").read_text().splitlines()[3]
        password = (folder / "postgres.secret").read_text()

        async def run() -> None:
            connection = await asyncpg.connect(
                host="127.0.0.1",
                port=int(port),
                user="postgres",
                password=password,
                database=service,
            )
            await connection.execute(statement)
            await connection.close()

        asyncio.run(run())

    def token(self, role: str, clinic_id: uuid.UUID) -> str:
        printed = subprocess.run(
            [
                *(sys.executable, "-m", "standalone", "token", "--data-dir", str(self.data_dir)),
                *("--clinic", str(clinic_id), "--role", role),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        return printed.stdout.strip()

    def client(self, token: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.ready["base_url"],
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_SECONDS,
        )

    def advance(self, duration: str) -> str:
        with self.client(self.ready["admin_token"]) as client:
            answer = client.post("/clock", json={"advance": duration})
        assert answer.status_code == 200, answer.text
        now: str = answer.json()["now"]
        return now

    def caught(self, box: str) -> list[dict[str, Any]]:
        path = self.data_dir / "caught" / f"{box}.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """Address of an Apache Kafka where the tests run on one; none on the embedded default.

    A node of its own: the other tests leave poison, and topics with other partitions, in theirs.
    """
    if "REVISIT_TEST_KAFKA" not in os.environ:
        yield None
        return
    node = ApacheKafka(tmp_path_factory.mktemp("kafka"))
    try:
        node.start()
        yield node.bootstrap_servers
    finally:
        node.stop()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, kafka: str | None) -> Iterator[Standalone]:
    running = Standalone(tmp_path_factory.mktemp("standalone"), kafka)
    running.start()
    yield running
    running.stop()
    running.remove()


def clinic_body() -> dict[str, Any]:
    return {
        "name": "Клиника на Лесной",
        "time_zone": "Europe/Moscow",
        "language": "ru",
        "country": "RU",
        "currency": "RUB",
        "live_from": "2026-01-12T00:00:00+03:00",
    }


def event(name: str, subject: str, time: str, /, **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{subject}:{name}:{time}",
        "source": "//mis.example/clinic",
        "type": f"{name}.v1",
        "subject": subject,
        "time": time,
        "data": data,
    }


def visit(number: str, patient: str, time: str, **more: Any) -> dict[str, Any]:
    return event(
        "visit.completed",
        f"V-{number}",
        time,
        visit_id=f"V-{number}",
        patient_id=patient,
        kind="check_up",
        outcome="healthy",
        completed_at=time,
        **more,
    )
