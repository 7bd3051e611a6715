"""A file of real appointments in the format of the no-show data of Vitoria (Brazil), row by row.

Ids are text: three of them are written in scientific notation and would fall together as numbers. The
file's days have no hour; each appointment gets one that depends on its id only.
"""

import csv
import gzip
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import TextIO
from zoneinfo import ZoneInfo

from standalone.demo.happenings import Appointment
from standalone.demo.people import make_person

ZONE = ZoneInfo("America/Sao_Paulo")
REQUIRED = (
    "PatientId",
    "AppointmentID",
    "Gender",
    "ScheduledDay",
    "AppointmentDay",
    "Age",
    "No-show",
)
MINUTES = 20
SHORTEST_LEAD = timedelta(minutes=10)


class WrongFile(ValueError):
    """The file is not in this format; the text says what is missing, and in which row."""


def count_rows(path: Path) -> int:
    """Gives the number of lines below the header, for the time left.

    Args:
        path: CSV with a header.
    """
    with _opened(path) as lines:
        return max(0, sum(1 for _ in lines) - 1)


def read_appointments(path: Path) -> Iterator[Appointment]:
    """Gives the appointments of a file, plain or compressed with gzip.

    Args:
        path: CSV with a header.

    Raises:
        WrongFile: A column is missing or a row cannot be read.
    """
    with _opened(path) as lines:
        rows = csv.DictReader(lines)
        missing = [name for name in REQUIRED if name not in (rows.fieldnames or ())]
        if missing:
            raise WrongFile(f"the file has no column {', '.join(missing)}")
        for number, row in enumerate(rows, start=2):
            try:
                yield _appointment(row)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise WrongFile(f"row {number} cannot be read: {error}") from error


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _appointment(row: dict[str, str]) -> Appointment:
    patient_id, identifier = row["PatientId"], row["AppointmentID"]
    scheduled_at = _moment(row["ScheduledDay"])
    day = _moment(row["AppointmentDay"])
    starts_at = day + timedelta(hours=8, minutes=15 * (_number(identifier) % 40))  # 08:00 to 17:45
    # A few rows were written down after the day itself: then the day begins with the booking.
    booked_at = min(scheduled_at, day + timedelta(hours=17))
    starts_at = max(starts_at, booked_at + SHORTEST_LEAD)
    seed = _number(patient_id)
    random = Random(seed)  # noqa: S311  (made-up contacts, no secret)
    age = int(row["Age"])
    person = make_person(
        f"P-{patient_id}",
        seed % 10_000_000_000,
        random,
        language="en",
        sex="female" if row["Gender"] == "F" else "male",
        birth_on=f"{2016 - max(0, age)}-07-01",
        is_chronic=row.get("Hipertension") == "1" or row.get("Diabetes") == "1",
        mail_share=0.9,
    )
    missed = {"Yes": True, "No": False}[row["No-show"]]
    return Appointment(
        id=f"A-{identifier}",
        person=person,
        practitioner_id=f"D-{_number(row.get('Neighbourhood') or '') % 40:02d}",
        service_code="general.consultation",
        specialty_code="general_practice",
        kind="consultation",
        booked_at=booked_at,
        starts_at=starts_at,
        minutes=MINUTES,
        end="no_show" if missed else "completed",
        channel="system",
        wait_minutes=_number(identifier) % 30,
        currency="BRL",
    )


def _moment(text: str) -> datetime:
    # The file's Z is no zone: the times are the clinic's own.
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=ZONE).astimezone(UTC)


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
