"""The tour of README.md, pasted into a shell."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import TIMEOUT_SECONDS
from tests.e2e.test_lifecycle import all_ended, children, wait_until

from standalone.placement import Placement

pytestmark = [pytest.mark.e2e]
ROOT = Path(__file__).parents[2]

# A person looks at an answer before the next question; a shell does not, and scoring hears of the
# visit a moment later.
UNTIL_SCORED = """
until command curl -sf $API/scoring/v1/patients/P-1/score -H "Authorization: Bearer $TOKEN" >/dev/null
do sleep 0.1; done
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_tour_works_as_it_stands(tmp_path: Path) -> None:
    tour = (ROOT / "README.md").read_text().split("## From an event to a mailbox")[1]
    blocks = re.findall(r"```sh\n(.*?)```", tour.split("\n## ")[0], re.DOTALL)
    assert len(blocks) == 3
    script = 'set -euo pipefail\ncurl() { command curl -sS --fail-with-body "$@"; echo; }\n'
    script += blocks[0] + blocks[1] + UNTIL_SCORED + blocks[2]
    data_dir = tmp_path / "data"
    # What the make that runs the tests was told is not for the make of the tour.
    theirs = ("MAKE", "MFLAGS", "ARGS")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(theirs)}
    environment |= {"PORT": str(free_port()), "DATA_DIR": str(data_dir)}
    try:
        # A file, not a pipe: the platform that the tour starts would hold a pipe open.
        with (tmp_path / "output").open("wb") as output:
            subprocess.run(
                ["bash", "-c", script],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        printed = (tmp_path / "output").read_text()
        assert '"status":"accepted"' in printed, printed
        assert '"in_scope":1' in printed, printed
        assert '"kpi":"visits"' in printed, printed
        ready = json.loads((data_dir / "ready.json").read_text())
        assert httpx.get(ready["mailbox_url"]).status_code == 200
        revoked_is_refused(data_dir, ready["base_url"])
    finally:
        if (data_dir / "ready.json").exists():
            pid = json.loads((data_dir / "ready.json").read_text())["pid"]
            pids = [pid, *children(pid)]
            os.kill(pid, signal.SIGTERM)
            assert all_ended(pids)
        Placement(data_dir / "postgres").remove()


def standalone(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "standalone", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def revoked_is_refused(data_dir: Path, base_url: str) -> None:
    """`revoke` takes a token away in booking at once, and soon in every service."""
    clinic = ("--data-dir", str(data_dir), "--clinic", "7c1f0a52-6a1e-4d57-9a53-0f6a1c7c2b10")
    kept, gone = (
        standalone("token", *clinic, "--role", "manager").stdout.strip() for _ in range(2)
    )
    pages = (
        "booking/v1/patients/P-1",
        "engagement/v1/two-z",
        "feedback/v1/reviews",
        "scoring/v1/kpis",
    )

    def statuses(token: str) -> list[int]:
        headers = {"Authorization": f"Bearer {token}"}
        return [httpx.get(f"{base_url}/{page}", headers=headers).status_code for page in pages]

    assert statuses(gone) == [200] * 4
    done = standalone("revoke", "--data-dir", str(data_dir), "--token", gone)
    assert done.returncode == 0, done.stderr
    assert wait_until(lambda: statuses(gone) == [401] * 4)
    assert statuses(kept) == [200] * 4
    forged = standalone("revoke", "--data-dir", str(data_dir), "--token", gone[:-4] + "AAAA")
    assert forged.returncode == 2
    assert "not revoked" in forged.stderr
