"""The embedded default as an operator starts it: a process, a data folder, a ready file."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

START = "2026-01-12T06:00:00Z"
TIMEOUT_SECONDS = 120


@dataclass(slots=True)
class Standalone:
    """A running platform, seen from outside."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    ready: dict[str, Any] = field(default_factory=dict)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "standalone.log"

    def start(self) -> None:
        ready_file = self.folder / f"ready-{uuid.uuid4().hex}.json"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ENGAGEMENT_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "standalone", "serve", "--port", "0"),
                    *("--data-dir", str(self.data_dir), "--ready-file", str(ready_file)),
                    *("--clock", "simulated", "--start", START),
                ],
                stdout=log,
                stderr=log,
                env=environment,
            )
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not ready_file.exists():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)
        self.ready = json.loads(ready_file.read_text())

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:
            if kill:
                self.process.kill()
            else:
                self.process.terminate()
            self.process.wait(timeout=TIMEOUT_SECONDS)
            self.process = None

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
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    running = Standalone(tmp_path_factory.mktemp("standalone"))
    running.start()
    yield running
    running.stop()
