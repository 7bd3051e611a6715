"""The real file: all of it read, and its first rows replayed through the whole platform.

The whole file takes about ten minutes: `make demo ARGS="--exit --data FILE"`.
"""

import csv
import gzip
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from uuid import UUID

import pytest

from standalone.demo.timeline import Timeline
from standalone.demo.vitoria import read_appointments

pytestmark = pytest.mark.data


def test_file_gives_its_published_facts(shared_data: Path, tmp_path: Path) -> None:
    timeline = Timeline(tmp_path / "timeline.db", UUID(int=1))
    missed = ended = 0
    scientific = set()

    def counted() -> object:
        nonlocal missed, ended
        for one in read_appointments(shared_data / "noshow-vitoria" / "appointments.csv.gz"):
            missed += one.end == "no_show"
            ended += one.end in {"no_show", "completed"}
            if "E" in one.person.id.removeprefix("P-"):
                scientific.add(one.person.id)
            assert one.booked_at < one.starts_at
            yield one

    timeline.fill(counted())  # type: ignore[arg-type]  # a generator of appointments
    assert timeline.appointments == 79_797
    assert timeline.patients == 49_847
    assert round(missed / ended, 5) == 0.20891
    assert len(scientific) == 3
    timeline.close()


ROWS = 3_000


@pytest.mark.timeout(900)
@pytest.mark.parametrize("more", [(), ("--repeat", "2", "--shuffle", "7")], ids=["plain", "again"])
def test_first_rows_give_their_own_totals_in_any_order(
    shared_data: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    source = shared_data / "noshow-vitoria" / "appointments.csv.gz"
    with gzip.open(source, "rt", newline="") as lines:
        rows = list(islice(csv.DictReader(lines), ROWS))
    part, report = tmp_path / "part.csv", tmp_path / "report.json"
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    subprocess.run(
        [
            *(sys.executable, "-m", "standalone", "demo", "--exit", "--port", "0"),
            *("--data", str(part), "--report", str(report), *more),
        ],
        check=True,
    )
    found = json.loads(report.read_text())
    missed = sum(row["No-show"] == "Yes" for row in rows)
    assert found["appointments"] == ROWS
    assert found["patients"] == len({row["PatientId"] for row in rows})
    assert found["visits"] == ROWS - missed
    assert found["no_show_rate"] == missed / ROWS
    assert found["events"]["appointment.no_show.v1"] == missed
    assert found["messages"]["follow-up"] > 0
    assert found["messages"]["reminder"] > 0
    assert found["reminders_for_past_or_cancelled"] == 0
    assert found["two_z"]["violations"] == 0
