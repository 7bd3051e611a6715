"""Memory of the embedded default over a long load: every process of it, summed, at its highest."""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from bench.load import post_all, register, visit_posts

if TYPE_CHECKING:
    from bench.measure import Bench

CHUNK = 50_000
EFFECTS_TIMEOUT_SECONDS = 600


def largest(bench: "Bench") -> float:
    """Posts the long load to a standalone of its own; gives the largest sum of memory in MiB.

    Proportional set size is summed, so that pages shared between PostgreSQL's processes count once.
    """
    with tempfile.TemporaryDirectory(prefix="revisit-memory-") as name:
        folder = Path(name)
        ready = folder / "ready.json"
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "standalone", "serve", "--port", "0"),
                *("--data-dir", str(folder / "data"), "--ready-file", str(ready)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise RuntimeError("standalone ended before it was ready")
                time.sleep(0.1)
            return _load(bench, json.loads(ready.read_text())["base_url"], folder, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=120)


def _load(bench: "Bench", base_url: str, folder: Path, pid: int) -> float:
    port = int(base_url.rsplit(":", 1)[1])
    clinics = [uuid.uuid4() for _ in range(4)]
    tokens = {clinic_id: _token(folder / "data", clinic_id) for clinic_id in clinics}
    since = datetime.now(UTC) - timedelta(hours=3)
    register(f"{base_url}/booking", since - timedelta(days=1), tokens)
    highest = 0.0
    ended = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not ended.wait(1.0):
            highest = max(highest, _memory_mib(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for start in range(0, bench.size.memory_events, CHUNK):
            posts = visit_posts(CHUNK, 100, clinics, f"memory-{start}", since=since)
            outcome = asyncio.run(post_all(port, "/booking/v1/events", posts, tokens, 8))
            if outcome.refused:
                raise RuntimeError(f"the load was refused: {outcome.refused[0]}")
            bench.progress(f"{start + CHUNK:,} events, {highest:,.0f} MiB")
        # The figure counts only if all of it arrived: the last consumer's effects, as it tells them.
        deadline = time.monotonic() + EFFECTS_TIMEOUT_SECONDS
        while (visits := _visits(base_url, tokens.values())) < bench.size.memory_events:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{visits:,} of {bench.size.memory_events:,} visits arrived")
            time.sleep(2)
    finally:
        ended.set()
        watcher.join()
    return highest


def _visits(base_url: str, tokens: Iterable[str]) -> int:
    """Visits in the key figures of all clinics."""
    found = 0
    for token in tokens:
        request = urllib.request.Request(  # noqa: S310  (loopback)
            f"{base_url}/scoring/v1/kpis", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  (loopback)
            items = json.load(answer)["items"]
        found += next(int(item["value"] or 0) for item in items if item["kpi"] == "visits")
    return found


def _token(data_dir: Path, clinic_id: uuid.UUID) -> str:
    printed = subprocess.run(
        [
            *(sys.executable, "-m", "standalone", "token", "--data-dir", str(data_dir)),
            *("--clinic", str(clinic_id), "--role", "admin"),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return printed.stdout.strip()


def _memory_mib(root: int) -> float:
    total = 0
    for pid in _descendants(root):
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total / 1024


def _descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += parents.get(pid, [])
    return found
