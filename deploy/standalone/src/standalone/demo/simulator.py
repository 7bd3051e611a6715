"""The shipped sample: three months of a clinic with four specialties, made on a seed.

Calibrated to published curves (docs/adr/0020 has the figures and their sources): lead times and no-shows
by lead time, return rhythms, answers to surveys. Everybody in it is made up. The clinic goes on living at
the end: whatever was booked by then for later is still ahead.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

from standalone.demo.happenings import Appointment, Person
from standalone.demo.people import make_person

ZONE = ZoneInfo("Europe/Moscow")
FIRST_DAY = datetime(2026, 1, 12, tzinfo=ZONE)
DAYS_A_MONTH = 30
MONTHS = 3
PATIENTS = 2000

# General practice in England, January 2020 to June 2022, all regions and modes: share of the 742,402,420
# appointments with a known lead time in days, and "did not attend" as a share of attended and missed.
LEADS: tuple[tuple[tuple[int, int], float, float], ...] = (
    ((0, 0), 0.462, 0.018),
    ((1, 1), 0.091, 0.040),
    ((2, 7), 0.207, 0.059),
    ((8, 14), 0.117, 0.076),
    ((15, 21), 0.058, 0.084),
    ((22, 28), 0.034, 0.088),
    # "More than 28 days" has no upper end there; half a month more is taken.
    ((29, 45), 0.031, 0.109),
)
LONGEST_LEAD_DAYS = 45
CANCELLED_SHARE = 0.08
"""Assumed: the English figures do not count cancellations."""
MEDIAN_GAP_DAYS = 28.0
MEAN_GAP_DAYS = 100.0
GAP_SPREAD = math.sqrt(2 * math.log(MEAN_GAP_DAYS / MEDIAN_GAP_DAYS))
"""Of a log-normal with that median and mean (outpatient visits of the Synthea hospital): 1.6."""
SHORTEST_GAP_DAYS = 2.0
REBOOKED_SHARE = 0.6
"""Assumed: who comes again at all; no public set says it of private clinics."""
ANSWER_SHARE = 0.26
"""Of surveys: the patient survey of hospitals in the USA, HCAHPS, had 26.7 % in 2017 and 25 % in 2019."""
CSAT_SHARES: tuple[tuple[int, float], ...] = (
    (5, 0.68),
    (4, 0.173),
    (3, 0.048),
    (2, 0.039),
    (1, 0.06),
)
"""Of the 3,897 respondents of the NHS friends and family comments, whose 1 is the best."""
CONFIRM_SHARE = 0.4
"""Assumed."""
TRIES = 50
OPENS_AT, CLOSES_AT, QUARTER = 9 * 60, 19 * 60, 15
"""Minutes of the day; every appointment begins at a quarter of an hour."""
OUTCOMES = (
    ("treated", 0.42),
    ("in_treatment", 0.22),
    ("healthy", 0.14),
    ("under_observation", 0.10),
    ("treatment_not_started", 0.08),
    ("referred_out", 0.04),
)


@dataclass(frozen=True, slots=True)
class Specialty:
    """What a specialty offers."""

    code: str
    services: tuple[tuple[str, str, int, int], ...]
    """Service, kind of visit, minutes, price in minor units."""
    practitioners: tuple[str, ...]


SPECIALTIES = (
    Specialty(
        "dentistry",
        (
            ("dental.filling", "procedure", 45, 780_000),
            ("dental.check_up", "check_up", 30, 250_000),
        ),
        ("D-01", "D-02", "D-03"),
    ),
    Specialty(
        "therapy",
        (
            ("therapy.consultation", "complaint", 30, 280_000),
            ("therapy.check_up", "check_up", 30, 320_000),
        ),
        ("D-04", "D-05", "D-06"),
    ),
    Specialty(
        "cardiology",
        (
            ("cardio.consultation", "consultation", 40, 350_000),
            ("cardio.control", "chronic_control", 30, 300_000),
        ),
        ("D-07", "D-08"),
    ),
    Specialty(
        "paediatrics",
        (
            ("paediatric.visit", "complaint", 30, 260_000),
            ("paediatric.vaccination", "vaccination", 20, 190_000),
        ),
        ("D-09", "D-10"),
    ),
)


def end_of(months: int) -> datetime:
    """Gives the moment at which a sample ends: early in the morning after its last day.

    Args:
        months: Of 30 days.
    """
    return FIRST_DAY + timedelta(days=DAYS_A_MONTH * months, hours=6)


def simulate(
    seed: int = 7, patients: int = PATIENTS, months: int = MONTHS
) -> Iterator[Appointment]:
    """Gives the appointments of the sample, patient by patient; all were booked before its end.

    Args:
        seed: The same one gives the same clinic.
        patients: How many.
        months: How long, of 30 days.
    """
    random = Random(seed)  # noqa: S311  (a sample, no secret)
    clinic = _Clinic(random, end_of(months))
    for index in range(1, patients + 1):
        yield from clinic.life_of(_person(index, random))


def draw_lead(random: Random) -> tuple[int, float]:
    """Gives the days between booking and appointment, and how likely such an appointment is missed.

    Args:
        random: Decides.
    """
    (least, most), _, missed_share = random.choices(LEADS, [share for _, share, _ in LEADS])[0]
    return random.randint(least, most), missed_share


def draw_gap_days(random: Random) -> float:
    """Gives the days until a patient who comes again comes again.

    Args:
        random: Decides.
    """
    return MEDIAN_GAP_DAYS * math.exp(random.gauss(0, GAP_SPREAD))


@dataclass(slots=True)
class _Clinic:
    """The practitioners' calendars, and how lives go there."""

    random: Random
    end: datetime
    number: int = 0
    taken: dict[tuple[str, datetime], list[tuple[datetime, datetime]]] = field(default_factory=dict)

    def life_of(self, person: Person) -> Iterator[Appointment]:
        """Gives a patient's appointments until the first one that is not booked by the end."""
        random = self.random
        specialty = random.choices(SPECIALTIES, (0.4, 0.3, 0.15, 0.15))[0]
        days = (self.end - FIRST_DAY) / timedelta(days=1) + LONGEST_LEAD_DAYS
        first = None
        while first is None:  # a patient nobody has heard of by the end is none
            first = self._appointment(
                person, specialty, FIRST_DAY + timedelta(days=random.uniform(0, days))
            )
        appointment: Appointment | None = first
        while appointment is not None:
            yield appointment
            if random.random() >= REBOOKED_SHARE:
                return
            if appointment.end == "no_show" and random.random() < 0.5:
                return
            gap_days = max(SHORTEST_GAP_DAYS, draw_gap_days(random))
            if gap_days > days:
                return
            appointment = self._appointment(
                person, specialty, appointment.starts_at + timedelta(days=gap_days)
            )

    def _appointment(
        self, person: Person, specialty: Specialty, day: datetime
    ) -> Appointment | None:
        random = self.random
        service, kind, minutes, price = random.choice(specialty.services)
        lead, missed_share = draw_lead(random)
        practitioner_id, starts_at = self._free_slot(specialty.practitioners, day, minutes)
        # What was booked before the sample begins is told all the same: it is history by then.
        booked_at = starts_at - timedelta(days=lead, minutes=random.randint(30, 180))
        if lead == 0:
            booked_at = max(booked_at, starts_at.replace(hour=8, minute=0))
        if booked_at >= self.end:
            return None
        self._take(practitioner_id, starts_at, minutes)
        self.number += 1
        end, cancelled_at = "completed", None
        # Cancelled first: the published rates are shares of what was attended or missed.
        if random.random() < CANCELLED_SHARE:
            end = "cancelled"
            cancelled_at = booked_at + (starts_at - booked_at) * random.uniform(0.2, 0.95)
        elif random.random() < missed_share:
            end = "no_show"
        outcome = random.choices([o for o, _ in OUTCOMES], [share for _, share in OUTCOMES])[0]
        referral = None
        if outcome == "referred_out":
            referral = {"reason": "no_equipment", "urgency": random.choice(("routine", "acute"))}
        return Appointment(
            id=f"A-{self.number:05d}",
            person=person,
            practitioner_id=practitioner_id,
            service_code=service,
            specialty_code=specialty.code,
            kind=kind,
            booked_at=booked_at,
            starts_at=starts_at,
            minutes=minutes,
            end=end,
            outcome=outcome,
            channel=random.choices(("call_centre", "online", "walk_in"), (0.6, 0.35, 0.05))[0],
            cancelled_at=cancelled_at,
            wait_minutes=min(30, int(random.expovariate(1 / 11))),
            charged_minor=price,
            cost_minor=price * 2 // 5,
            referral=referral,
        )

    def _free_slot(
        self, practitioners: Sequence[str], day: datetime, minutes: int
    ) -> tuple[str, datetime]:
        """Gives a free time of some practitioner on a day, or on the next one that has any."""
        random, day = self.random, _day_of(day)
        quarters = range(OPENS_AT, CLOSES_AT - minutes + 1, QUARTER)
        while True:
            # Nearly always the first one is free; a day without any is not worth a search.
            for _ in range(TRIES if day.weekday() != 6 else 0):
                practitioner_id = random.choice(practitioners)
                starts_at = day + timedelta(minutes=random.choice(quarters))
                if self._is_free(practitioner_id, starts_at, minutes):
                    return practitioner_id, starts_at
            day += timedelta(days=1)

    def _is_free(self, practitioner_id: str, starts_at: datetime, minutes: int) -> bool:
        ends_at = starts_at + timedelta(minutes=minutes)
        busy = self.taken.get((practitioner_id, _day_of(starts_at)), ())
        return all(ends_at <= begin or end <= starts_at for begin, end in busy)

    def _take(self, practitioner_id: str, starts_at: datetime, minutes: int) -> None:
        busy = self.taken.setdefault((practitioner_id, _day_of(starts_at)), [])
        busy.append((starts_at, starts_at + timedelta(minutes=minutes)))


def _day_of(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _person(index: int, random: Random) -> Person:
    age = min(95, max(1, int(random.gauss(42, 20))))
    born = datetime(2026 - age, 1, 1, tzinfo=UTC) + timedelta(days=random.randint(0, 364))
    return make_person(
        f"P-{index:05d}",
        index,
        random,
        language="en" if random.random() < 0.1 else "ru",
        sex=random.choice(("female", "male")),
        birth_on=born.date().isoformat(),
        family_id=f"F-{index // 4:04d}" if random.random() < 0.3 else None,
        payer=random.choices(("self", "insurance", "corporate"), (0.75, 0.17, 0.08))[0],
        is_chronic=age > 55 and random.random() < 0.4,
    )
