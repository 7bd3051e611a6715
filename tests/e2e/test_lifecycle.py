"""Start, stop, crash and the recycling of the broker, on the process that an operator starts."""

import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.e2e.conftest import BATCH_TYPE, TIMEOUT_SECONDS, Standalone, clinic_body, visit

from standalone.children import command_of
from standalone.placement import Placement

pytestmark = [pytest.mark.e2e]


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator[Standalone]:
    running = Standalone(tmp_path)
    yield running
    running.stop()
    running.remove()


def children(parent: int) -> list[int]:
    """Processes whose parent this is, and theirs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found += [int(entry.name), *children(int(entry.name))]
    return found


def wait_until(what: Callable[[], bool], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False


def all_ended(pids: list[int]) -> bool:
    return wait_until(lambda: not any(map(is_alive, pids)))


def test_second_start_is_refused_and_the_first_one_goes_on(standalone: Standalone) -> None:
    modes = {folder: folder.stat().st_mode for folder in standalone.folder.parents}
    stale = standalone.ready_file
    stale.write_text('{"base_url": "http://127.0.0.1:1", "pid": 1}')
    standalone.start()
    assert standalone.process is not None
    assert standalone.ready["pid"] == standalone.process.pid
    second = subprocess.run(
        [
            *(sys.executable, "-m", "standalone", "serve", "--port", "0"),
            *("--data-dir", str(standalone.data_dir), "--ready-file", str(stale)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )
    assert second.returncode == 2
    assert f"is in use by process {standalone.process.pid}" in second.stderr
    assert stale.exists()
    port = standalone.ready["base_url"].rsplit(":", 1)[1]
    busy = subprocess.run(
        [
            *(sys.executable, "-m", "standalone", "serve", "--port", port),
            *("--data-dir", str(standalone.folder / "other")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )
    assert busy.returncode == 2
    assert f"port {port} cannot be had" in busy.stderr
    pids = children(standalone.process.pid)
    servers = [pid for pid in pids if "/bin/postgres" in command_of(pid)[0]]
    assert servers
    assert all(Path(f"/proc/{pid}").stat().st_uid != 0 for pid in servers)
    assert standalone.stop() == 0
    assert {folder: folder.stat().st_mode for folder in standalone.folder.parents} == modes
    assert not stale.exists()
    assert all_ended(pids)


def test_kafka_that_does_not_answer_is_named(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        try:
            given = subprocess.run(
                [
                    *(sys.executable, "-m", "standalone", "serve", "--port", "0"),
                    *("--data-dir", str(data_dir), "--kafka", address),
                ],
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_SECONDS,
            )
        finally:
            Placement(data_dir / "postgres").remove()
    assert given.returncode == 2
    assert given.stderr.splitlines()[-1].startswith(f"the Kafka at {address} cannot be used: ")
    assert "Traceback" not in given.stderr


@pytest.mark.parametrize("stage", ["postgres/postgres.log", "broker.pid"])
def test_signal_during_the_start_ends_it_and_leaves_nobody(
    standalone: Standalone, stage: str
) -> None:
    standalone.launch()
    assert standalone.process is not None
    assert wait_until((standalone.data_dir / stage).exists)
    pids = children(standalone.process.pid)
    assert standalone.stop() == 0, standalone.log.read_text()[-3000:]
    assert all_ended(pids)
    assert not standalone.ready_file.exists()


def test_kill_leaves_nobody_behind(standalone: Standalone) -> None:
    standalone.start()
    assert standalone.process is not None
    pids = children(standalone.process.pid)
    assert len(pids) >= 3
    assert standalone.stop(kill=True) == -signal.SIGKILL
    assert all_ended(pids)
    assert standalone.ready_file.exists()  # of a crash; the next start removes it first
    standalone.start()
    assert standalone.process is not None
    assert standalone.ready["pid"] == standalone.process.pid


def test_worker_that_fails_ends_the_platform_with_an_error(standalone: Standalone) -> None:
    standalone.start()
    assert standalone.process is not None
    pids = children(standalone.process.pid)
    # A projection is gone: no fault of the infrastructure, and none that waiting would mend.
    standalone.sql("engagement", "DROP TABLE relay_position, broker_state, outbox_unsent CASCADE")
    assert standalone.process.wait(TIMEOUT_SECONDS) == 1, standalone.log.read_text()[-3000:]
    assert "standalone.worker_failed" in standalone.log.read_text()
    assert all_ended(pids)


def test_recycling_under_load_loses_nothing(standalone: Standalone) -> None:
    # Any broker is past one MiB, so it is recycled at every look.
    standalone.start({"EMBEDDED_BROKER_MAX_MIB": "1"})
    clinic_id = uuid.uuid4()
    with standalone.client(standalone.ready["admin_token"]) as admin:
        admin.put(f"/booking/v1/clinics/{clinic_id}", json=clinic_body()).raise_for_status()
    posted = 0
    with standalone.client(standalone.token("clinic_system", clinic_id)) as client:
        headers = {"Content-Type": BATCH_TYPE}
        while standalone.log.read_text().count("standalone.broker_recycled") < 2:
            events = [
                visit(f"{posted + n}", f"P-{(posted + n) % 300}", "2026-01-12T09:30:00+03:00")
                for n in range(50)
            ]
            answer = client.post("/booking/v1/events", json=events, headers=headers)
            assert answer.json()["accepted"] == 50, answer.text
            posted += 50
            time.sleep(0.1)
            assert posted < 50_000
    standalone.advance("PT1H")
    with standalone.client(standalone.token("manager", clinic_id)) as client:
        kpis = {item["kpi"]: item for item in client.get("/scoring/v1/kpis").json()["items"]}
        assert kpis["visits"]["value"] == posted
    assert "standalone.worker_failed" not in standalone.log.read_text()
    assert standalone.stop() == 0
