"""The shipped sample: three months of a clinic with four specialties, made on a seed.

Calibrated to published curves: no-shows by lead time as in general practices in England 2020 to 2022
(1.8 % on the same day, rising to 10.9 % beyond four weeks), gaps between visits with a median of four
weeks, about one follow-up in four answered. Everybody in it is made up.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

from standalone.demo.happenings import Appointment, Person
from standalone.demo.people import make_person

ZONE = ZoneInfo("Europe/Moscow")
FIRST_DAY = datetime(2026, 1, 12, tzinfo=ZONE)
DAYS = 90
PATIENTS = 2000

# Share of appointments by lead time in days, and the share of those not kept.
LEADS: tuple[tuple[tuple[int, int], float, float], ...] = (
    ((0, 0), 0.462, 0.018),
    ((1, 1), 0.091, 0.040),
    ((2, 7), 0.207, 0.059),
    ((8, 14), 0.117, 0.076),
    ((15, 21), 0.058, 0.084),
    ((22, 28), 0.034, 0.088),
    ((29, 45), 0.031, 0.109),
)
CANCELLED_SHARE = 0.08
MEDIAN_GAP_DAYS = 28.0
GAP_SPREAD = 0.6
REBOOKED_SHARE = 0.45
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


def simulate(seed: int = 7, patients: int = PATIENTS) -> Iterator[Appointment]:
    """Gives the appointments of the sample, patient by patient.

    Args:
        seed: The same one gives the same clinic.
        patients: How many.
    """
    random = Random(seed)  # noqa: S311  (a sample, no secret)
    number = 0
    for index in range(1, patients + 1):
        person = _person(index, random)
        specialty = random.choices(SPECIALTIES, (0.4, 0.3, 0.15, 0.15))[0]
        starts_at = _working_time(FIRST_DAY + timedelta(days=random.uniform(0, DAYS - 1)), random)
        while starts_at < FIRST_DAY + timedelta(days=DAYS):
            number += 1
            appointment = _appointment(number, person, specialty, starts_at, random)
            yield appointment
            if appointment.end == "no_show" and random.random() < 0.5:
                break
            if random.random() >= REBOOKED_SHARE:
                break
            gap = MEDIAN_GAP_DAYS * math.exp(random.gauss(0, GAP_SPREAD))
            starts_at = _working_time(starts_at + timedelta(days=max(2.0, gap)), random)


def _appointment(
    number: int, person: Person, specialty: Specialty, starts_at: datetime, random: Random
) -> Appointment:
    service, kind, minutes, price = random.choice(specialty.services)
    (least, most), _, missed_share = random.choices(LEADS, [share for _, share, _ in LEADS])[0]
    lead = random.randint(least, most)
    # What was booked before the sample begins is told all the same: it is history by then.
    booked_at = starts_at - timedelta(days=lead, minutes=random.randint(30, 180))
    if lead == 0:
        booked_at = max(booked_at, starts_at.replace(hour=8, minute=0))
    end, cancelled_at = "completed", None
    if random.random() < missed_share:
        end = "no_show"
    elif random.random() < CANCELLED_SHARE:
        end = "cancelled"
        cancelled_at = booked_at + (starts_at - booked_at) * random.uniform(0.2, 0.95)
    outcome = random.choices([o for o, _ in OUTCOMES], [share for _, share in OUTCOMES])[0]
    referral = None
    if outcome == "referred_out":
        referral = {"reason": "no_equipment", "urgency": random.choice(("routine", "acute"))}
    return Appointment(
        id=f"A-{number:05d}",
        person=person,
        practitioner_id=random.choice(specialty.practitioners),
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


def _working_time(moment: datetime, random: Random) -> datetime:
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if day.weekday() == 6:
        day += timedelta(days=1)
    return day + timedelta(minutes=15 * random.randint(36, 75))  # 09:00 to 18:45
