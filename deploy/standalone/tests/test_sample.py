"""The shipped sample held to the published curves, and the order in which happenings are told."""

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from standalone.demo.happenings import Appointment, Person
from standalone.demo.simulator import (
    CSAT_SHARES,
    DAYS_A_MONTH,
    FIRST_DAY,
    GAP_SPREAD,
    LEADS,
    LONGEST_LEAD_DAYS,
    MONTHS,
    PATIENTS,
    draw_gap_days,
    end_of,
    simulate,
)
from standalone.demo.timeline import Happening, Timeline

CLINIC_ID = UUID(int=1)
END = end_of(MONTHS)
DEVIATIONS = 3.5
"""A share may be this many standard errors off what is published: one sample in two thousand is."""


@pytest.fixture(scope="module")
def sample() -> Sequence[Appointment]:
    return list(simulate())


def is_near(found: float, published: float, n: int) -> bool:
    return abs(found - published) <= DEVIATIONS * math.sqrt(published * (1 - published) / n)


def lead_days(appointment: Appointment) -> int:
    return (appointment.starts_at.date() - appointment.booked_at.date()).days


def bucket(appointment: Appointment) -> int:
    days = lead_days(appointment)
    return next(n for n, ((least, most), _, _) in enumerate(LEADS) if least <= days <= most)


def test_sample_has_its_size_and_is_the_same_each_time(sample: Sequence[Appointment]) -> None:
    assert len({one.person.id for one in sample}) == PATIENTS
    assert len({one.practitioner_id for one in sample}) == 10
    assert len({one.specialty_code for one in sample}) == 4
    assert len({one.id for one in sample}) == len(sample)
    assert list(simulate(patients=50)) == list(simulate(patients=50))


def test_lead_times_are_the_published_ones(sample: Sequence[Appointment]) -> None:
    # Those that took place: of what is still ahead only the early booked is known.
    past = [one for one in sample if FIRST_DAY <= one.starts_at < END]
    counts = Counter(bucket(one) for one in past)
    for n, (_, published, _) in enumerate(LEADS):
        assert is_near(counts[n] / len(past), published, len(past)), (LEADS[n], counts[n])


def test_no_shows_by_lead_time_are_the_published_ones(sample: Sequence[Appointment]) -> None:
    kept: Counter[int] = Counter()
    missed: Counter[int] = Counter()
    # Two samples in one: the rare ends of the curve need cases.
    for one in (*sample, *simulate(seed=1)):
        kept[bucket(one)] += one.end == "completed"
        missed[bucket(one)] += one.end == "no_show"
    for n, (_, _, published) in enumerate(LEADS):
        cases = kept[n] + missed[n]
        assert is_near(missed[n] / cases, published, cases), (LEADS[n], missed[n], cases)


def test_patients_return_in_the_published_rhythm(sample: Sequence[Appointment]) -> None:
    random = Random(1)
    gaps = [draw_gap_days(random) for _ in range(40_000)]
    assert statistics.median(gaps) == pytest.approx(28, rel=0.03)
    assert statistics.mean(gaps) == pytest.approx(100, rel=0.07)
    # In the sample long gaps reach beyond its end, so it is held to the curve up to four weeks.
    starts: dict[str, list[datetime]] = defaultdict(list)
    for one in sample:
        starts[one.person.id].append(one.starts_at)
    seen = [
        (after - before) / timedelta(days=1)
        for days in starts.values()
        for before, after in itertools.pairwise(days)
        if before < END - timedelta(days=28)
    ]
    short = [gap for gap in seen if 3 <= gap <= 28]
    normal = statistics.NormalDist(math.log(28), GAP_SPREAD)
    low, middle, high = (normal.cdf(math.log(days)) for days in (3, 14, 28))
    expected = (middle - low) / (high - low)
    assert len(short) > 150
    # A day's tolerance: an appointment begins at some hour, and on a day on which the clinic is open.
    assert sum(gap <= 14 for gap in short) / len(short) == pytest.approx(expected, abs=0.12)


def test_nobody_is_booked_twice_at_once_and_sundays_are_free(
    sample: Sequence[Appointment],
) -> None:
    by_practitioner: dict[str, list[Appointment]] = defaultdict(list)
    for one in sample:
        by_practitioner[one.practitioner_id].append(one)
        assert one.starts_at.weekday() != 6
        assert 9 <= one.starts_at.hour < 19
        assert one.booked_at < one.starts_at
    for theirs in by_practitioner.values():
        theirs.sort(key=lambda one: one.starts_at)
        for before, after in itertools.pairwise(theirs):
            assert before.starts_at + timedelta(minutes=before.minutes) <= after.starts_at


def test_clinic_goes_on_at_the_end(sample: Sequence[Appointment]) -> None:
    ahead = [one for one in sample if one.starts_at >= END]
    assert all(one.booked_at < END for one in ahead)
    # In a steady clinic as many are ahead as come in a mean lead time (Little's law).
    days = DAYS_A_MONTH * MONTHS
    a_day = sum(FIRST_DAY <= one.starts_at < END for one in sample) / days
    mean_lead = sum(share * (least + most) / 2 for (least, most), share, _ in LEADS)
    assert len(ahead) == pytest.approx(a_day * mean_lead, rel=0.35)
    assert max(lead_days(one) for one in ahead) <= LONGEST_LEAD_DAYS


def test_answers_are_spread_as_published() -> None:
    assert sum(share for _, share in CSAT_SHARES) == pytest.approx(1)
    assert CSAT_SHARES[0] == (5, 0.68)


def told(folder: Path, shuffle: int | None) -> list[list[Happening]]:
    timeline = Timeline(folder / f"{shuffle}.db", CLINIC_ID, shuffle=shuffle, until=END)
    timeline.fill(simulate(patients=250))
    chunks = [found for _, found in timeline.chunks(timedelta(hours=12))]
    timeline.close()
    return chunks


def keys(chunks: list[list[Happening]]) -> list[str]:
    return [
        found.event["id"] if found.event is not None else found.person.id  # type: ignore[union-attr]  # one of both
        for chunk in chunks
        for found in chunk
    ]


def test_shuffled_the_same_is_told_far_out_of_order(tmp_path: Path) -> None:
    plain, shuffled, again = (keys(told(tmp_path, seed)) for seed in (None, 7, 7))
    assert sorted(shuffled) == sorted(plain)
    assert shuffled == again
    assert keys(told(tmp_path, 8)) != shuffled

    place = {key: n for n, key in enumerate(shuffled)}
    visits = [key for key in plain if key.endswith("visit.completed.v1")]
    cancelled = [key for key in plain if key.endswith("appointment.cancelled.v1")]
    appointments = {one.id: one for one in simulate(patients=250)}
    before_patient = [
        key
        for key in visits
        if place[key] < place[appointments[key.split(":")[0].removeprefix("V-")].person.id]
    ]
    before_booking = [
        key for key in cancelled if place[key] < place[key.replace("cancelled", "booked")]
    ]
    assert len(before_patient) > len(visits) / 10
    assert len(before_booking) > len(cancelled) / 10


def missed_at(starts_at: datetime, person: Person) -> Appointment:
    return Appointment(
        id=f"A-{starts_at:%d-%H%M}",
        person=person,
        practitioner_id="D-1",
        service_code="general.consultation",
        specialty_code="general_practice",
        kind="consultation",
        booked_at=starts_at - timedelta(hours=1),
        starts_at=starts_at,
        minutes=20,
        end="no_show",
    )


def test_chunks_end_at_the_same_moments_and_hold_what_is_told_then(
    tmp_path: Path, sample: Sequence[Appointment]
) -> None:
    # Twenty minutes, and thirty in which the patient may still come: the software and the timer of the
    # platform mark it in the same moment.
    noon = [
        missed_at(FIRST_DAY.replace(hour=14, minute=10) + timedelta(days=n), sample[0].person)
        for n in range(3)
    ]
    for earlier in (timedelta(hours=1), timedelta(hours=7)):
        timeline = Timeline(tmp_path / "timeline.db", CLINIC_ID)
        timeline.fill([missed_at(noon[0].starts_at - earlier, sample[1].person), *noon])
        ends = {
            found.event["id"]: end
            for end, chunk in timeline.chunks(timedelta(hours=12))
            for found in chunk
            if found.event is not None
        }
        timeline.close()
        for appointment in noon:
            told = appointment.starts_at + timedelta(minutes=50)
            assert ends[f"{appointment.id}:appointment.no_show.v1"] == told


def test_shuffled_nothing_is_told_too_late_for_a_message(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path / "timeline.db", CLINIC_ID, shuffle=7, until=END)
    timeline.fill(simulate(patients=250))
    appointments = {one.id: one for one in simulate(patients=250)}
    latest = timedelta()
    for end, chunk in timeline.chunks(timedelta(hours=12)):
        for found in chunk:
            if found.event is None:
                continue
            at = datetime.fromisoformat(found.event["time"])
            if found.event["type"] != "appointment.booked.v1":
                assert end - timedelta(hours=12) < at <= end
                continue
            latest = max(latest, end - at)
            starts_at = appointments[found.event["subject"]].starts_at
            # Told a chunk before its reminder leaves, or as soon as it was made.
            assert end <= starts_at - timedelta(hours=24) or at > end - timedelta(hours=12)
    assert latest > timedelta(days=14)
    timeline.close()
