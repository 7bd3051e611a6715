"""The loader on the real file: 79,797 appointments, ids as text, the published rate."""

from pathlib import Path
from uuid import UUID

import pytest

from standalone.demo.happenings import Timeline
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
