"""What happens in a clinic, in order of time, as its own software would tell it.

A source (the simulator or a file) gives appointments one by one; here they become CloudEvents, are put
on disk and come back sorted, so that memory stays flat whatever the size.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

from revisit_chassis.identifiers import canonical_id

SOURCE = "//mis.example/demo-clinic"
MISSED_AFTER = timedelta(minutes=20)
"""The clinic's own software marks a no-show this long after the planned end, before the platform would."""


@dataclass(frozen=True, slots=True)
class Person:
    """A patient with a made-up contact."""

    id: str
    family: str
    given: str
    language: str
    sex: str | None
    birth_on: str | None
    email: str | None
    phone: str | None
    family_id: str | None = None
    payer: str = "self"
    is_chronic: bool = False

    def as_request(self) -> dict[str, Any]:
        """Gives the body of `PUT /v1/patients/{id}`."""
        contacts = {"email": self.email, "phone": self.phone}
        return {
            "name": {"family": self.family, "given": self.given},
            "birth_on": self.birth_on,
            "sex": self.sex,
            "language": self.language,
            "contacts": {name: value for name, value in contacts.items() if value is not None},
            "family_id": self.family_id,
            "payer": self.payer,
            "chronic": self.is_chronic,
        }


@dataclass(frozen=True, slots=True)
class Appointment:
    """A planned meeting and how it ended."""

    id: str
    person: Person
    practitioner_id: str
    service_code: str
    specialty_code: str
    kind: str
    booked_at: datetime
    starts_at: datetime
    minutes: int
    end: str
    """`completed, no_show, cancelled`."""
    outcome: str = "treated"
    channel: str = "call_centre"
    cancelled_at: datetime | None = None
    wait_minutes: int = 0
    charged_minor: int | None = None
    cost_minor: int | None = None
    currency: str = "RUB"
    referral: dict[str, str] | None = None

    def events(self) -> Iterator[dict[str, Any]]:
        """Gives the events of its life."""
        yield self._event("booked", self.booked_at, self._booking())
        if self.end == "cancelled" and self.cancelled_at is not None:
            late = self.starts_at - self.cancelled_at < timedelta(hours=24)
            data = {"by": "patient", "reason_code": "plans_changed", "late": late}
            yield self._event("cancelled", self.cancelled_at, data)
        elif self.end == "no_show":
            at = self.starts_at + timedelta(minutes=self.minutes) + MISSED_AFTER
            data = {"marked_by": "system", "grace_minutes": 20, "definition_version": "1"}
            yield self._event("no_show", at, data)
        elif self.end == "completed":
            yield self._visit()

    def _booking(self) -> dict[str, Any]:
        return {
            "practitioner_id": self.practitioner_id,
            "service_code": self.service_code,
            "specialty_code": self.specialty_code,
            "starts_at": _text(self.starts_at),
            "ends_at": _text(self.starts_at + timedelta(minutes=self.minutes)),
            "booked_at": _text(self.booked_at),
            "channel": self.channel,
            "modality": "in_person",
        }

    def _visit(self) -> dict[str, Any]:
        started_at = self.starts_at + timedelta(minutes=max(0, self.wait_minutes - 5))
        completed_at = started_at + timedelta(minutes=self.minutes)
        visit_id = f"V-{self.id}"
        return _envelope(
            "visit.completed.v1",
            visit_id,
            completed_at,
            {
                "visit_id": visit_id,
                "appointment_id": self.id,
                "patient_id": self.person.id,
                "practitioner_id": self.practitioner_id,
                "service_code": self.service_code,
                "specialty_code": self.specialty_code,
                "kind": self.kind,
                "outcome": self.outcome,
                "arrived_at": _text(started_at - timedelta(minutes=self.wait_minutes)),
                "started_at": _text(started_at),
                "completed_at": _text(completed_at),
                "referral": self.referral,
                "charged_minor": self.charged_minor,
                "cost_minor": self.cost_minor,
                "currency": self.currency,
            },
        )

    def _event(self, name: str, at: datetime, data: dict[str, Any]) -> dict[str, Any]:
        ids = {"appointment_id": self.id, "patient_id": self.person.id}
        return _envelope(f"appointment.{name}.v1", self.id, at, ids | data)


@dataclass(frozen=True, slots=True)
class Happening:
    """An event and the patient it is about."""

    at: datetime
    event: dict[str, Any]
    person: Person


class Timeline:
    """Happenings on disk, sorted by time.

    Args:
        path: A file that is made anew.
    """

    def __init__(self, path: Path, clinic_id: UUID) -> None:
        self._clinic_id = clinic_id
        path.unlink(missing_ok=True)
        self._database = sqlite3.connect(path)
        self._database.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            "CREATE TABLE happening (at TEXT, number INTEGER PRIMARY KEY, event TEXT, patient TEXT);"
            "CREATE TABLE person (id TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID;"
            "CREATE TABLE appointment (id TEXT PRIMARY KEY, starts_at TEXT, lost_at TEXT) WITHOUT ROWID;"
        )

    def fill(self, appointments: Iterable[Appointment]) -> None:
        """Takes all appointments of a source, one at a time."""
        for appointment in appointments:
            person = appointment.person
            self._database.execute(
                "INSERT OR IGNORE INTO person VALUES (?, ?)",
                (person.id, json.dumps([getattr(person, name) for name in Person.__slots__])),
            )
            lost_at = None
            for event in appointment.events():
                if event["type"] in {"appointment.cancelled.v1", "appointment.no_show.v1"}:
                    lost_at = event["time"]
                self._database.execute(
                    "INSERT INTO happening (at, event, patient) VALUES (?, ?, ?)",
                    (event["time"], json.dumps(event), person.id),
                )
            self._database.execute(
                "INSERT INTO appointment VALUES (?, ?, ?)",
                (
                    str(canonical_id(self._clinic_id, "appointment", appointment.id)),
                    _text(appointment.starts_at),
                    lost_at,
                ),
            )
        self._database.execute("CREATE INDEX happening_at ON happening (at, number)")
        self._database.commit()

    @property
    def appointments(self) -> int:
        """Number of appointments."""
        return self._count("appointment")

    @property
    def patients(self) -> int:
        """Number of patients."""
        return self._count("person")

    @property
    def events(self) -> int:
        """Number of events."""
        return self._count("happening")

    def span(self) -> tuple[datetime, datetime]:
        """Gives the time of the first and the last event."""
        row = self._database.execute("SELECT min(at), max(at) FROM happening").fetchone()
        return datetime.fromisoformat(row[0]), datetime.fromisoformat(row[1])

    def chunks(
        self, length: timedelta, shuffle: Random | None = None
    ) -> Iterator[tuple[datetime, list[Happening]]]:
        """Gives what happens up to each end of a chunk that is not empty.

        Args:
            length: Of a chunk.
            shuffle: Puts the happenings of a chunk out of order, as careless software does.
        """
        start, last = self.span()
        start = start.replace(minute=0, second=0, microsecond=0)
        while start <= last:
            first = self._database.execute(
                "SELECT min(at) FROM happening WHERE at >= ?", (_text(start),)
            ).fetchone()[0]
            skipped = (datetime.fromisoformat(first) - start) // length
            start += skipped * length
            end = start + length
            rows = self._database.execute(
                "SELECT at, event, person.body FROM happening JOIN person ON person.id = patient "
                "WHERE at >= ? AND at < ? ORDER BY at, number",
                (_text(start), _text(end)),
            )
            found = [
                Happening(datetime.fromisoformat(at), json.loads(event), Person(*json.loads(body)))
                for at, event, body in rows
            ]
            if shuffle is not None:
                shuffle.shuffle(found)
            yield end, found
            start = end

    def was_pointless(self, appointment_id: str, sent_at: datetime) -> bool:
        """Tells whether a reminder went out for an appointment that was over, cancelled or missed."""
        row = self._database.execute(
            "SELECT starts_at, lost_at FROM appointment WHERE id = ?", (appointment_id,)
        ).fetchone()
        at = _text(sent_at)
        return row is None or at >= row[0] or (row[1] is not None and at >= row[1])

    def identifiers(self) -> Iterator[str]:
        """Gives the identifier of each appointment."""
        for row in self._database.execute("SELECT id FROM appointment"):
            yield row[0]

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def _count(self, table: str) -> int:
        count: int = self._database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
        return count


def _envelope(kind: str, subject: str, at: datetime, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{subject}:{kind}",
        "source": SOURCE,
        "type": kind,
        "subject": subject,
        "time": _text(at),
        "datacontenttype": "application/json",
        "data": data,
    }


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")
