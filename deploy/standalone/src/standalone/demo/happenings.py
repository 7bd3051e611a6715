"""What happens in a clinic, as its own software tells it: patients, appointments, and their CloudEvents."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

SOURCE = "//mis.example/demo-clinic"
GRACE = timedelta(minutes=30)
"""The clinic's own software marks a no-show this long after the planned end: definition version 1."""
DEFINITION_VERSION = "1"
BEFORE_REMINDER = timedelta(hours=36)
"""A reminder leaves 24 hours ahead; what is told this long ahead is told a whole chunk before it."""
NO_REMINDER = timedelta(hours=12)
"""Who books later than this gets none: quiet hours move a reminder to at most 12 hours ahead."""
BEFORE_FOLLOW_UP = timedelta(hours=11)
"""A follow-up leaves 24 hours after the visit, a chunk later than this."""


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
            at = self.starts_at + timedelta(minutes=self.minutes) + GRACE
            data = {
                "marked_by": "reception",
                "grace_minutes": GRACE // timedelta(minutes=1),
                "definition_version": DEFINITION_VERSION,
            }
            yield self._event("no_show", at, data)
        elif self.end == "completed":
            yield self._visit()

    def booking_told_by(self) -> datetime:
        """Gives the latest moment at which the booking may be told without changing a message."""
        return max(self.booked_at, self.starts_at - BEFORE_REMINDER)

    def patient_told_by(self) -> datetime:
        """Gives the latest moment at which the patient may be told, as far as this appointment goes."""
        if self.booked_at <= self.starts_at - NO_REMINDER:
            return self.booking_told_by()
        return self.starts_at + BEFORE_FOLLOW_UP if self.end == "completed" else self.booked_at

    def _booking(self) -> dict[str, Any]:
        return {
            "practitioner_id": self.practitioner_id,
            "service_code": self.service_code,
            "specialty_code": self.specialty_code,
            "starts_at": text_of(self.starts_at),
            "ends_at": text_of(self.starts_at + timedelta(minutes=self.minutes)),
            "booked_at": text_of(self.booked_at),
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
                "arrived_at": text_of(started_at - timedelta(minutes=self.wait_minutes)),
                "started_at": text_of(started_at),
                "completed_at": text_of(completed_at),
                "referral": self.referral,
                "charged_minor": self.charged_minor,
                "cost_minor": self.cost_minor,
                "currency": self.currency,
            },
        )

    def _event(self, name: str, at: datetime, data: dict[str, Any]) -> dict[str, Any]:
        ids = {"appointment_id": self.id, "patient_id": self.person.id}
        return _envelope(f"appointment.{name}.v1", self.id, at, ids | data)


def _envelope(kind: str, subject: str, at: datetime, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{subject}:{kind}",
        "source": SOURCE,
        "type": kind,
        "subject": subject,
        "time": text_of(at),
        "datacontenttype": "application/json",
        "data": data,
    }


def text_of(at: datetime) -> str:
    """Gives a time as it stands in an event: UTC, to the second."""
    return at.astimezone(UTC).isoformat(timespec="seconds")
