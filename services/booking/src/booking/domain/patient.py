"""What booking knows of a patient, and of the clinic they belong to."""

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal
from uuid import UUID

Payer = Literal["self", "insurance", "corporate"]


@dataclass(frozen=True, slots=True)
class Clinic:
    """The tenant."""

    clinic_id: UUID
    name: str
    time_zone: str
    language: str
    country: str
    currency: str
    live_from: datetime
    version: int = 0
    told_at: datetime | None = None
    """When the fact happened that stands."""
    sequence: int = 0
    """Sequence of that fact; a clinic system counts in its own way."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """How the patient came to the clinic, and what that cost."""

    channel: str | None
    cost_minor: int | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class Particulars:
    """What other services may know: nothing that leads to the person."""

    birth_year: int | None = None
    sex: str | None = None
    language: str | None = None
    time_zone: str | None = None
    family_id: UUID | None = None
    payer: Payer | None = None
    employer_id: UUID | None = None
    is_chronic: bool = False
    acquisition: Acquisition | None = None


@dataclass(frozen=True, slots=True)
class Name:
    """How the patient is called. Its text form shows nothing."""

    family: str | None = field(default=None, repr=False)
    given: str | None = field(default=None, repr=False)
    middle: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the patient is. Its text form shows nothing."""

    name: Name = Name()
    birth_on: date | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Contacts:
    """Where the patient can be reached. Its text form shows nothing."""

    phone: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)
    messengers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Patient:
    """A patient; without registration a stub that an event referred to first."""

    patient_id: UUID
    particulars: Particulars
    identity: Identity
    contacts: Contacts
    is_registered: bool = False
    told_at: datetime | None = None
    """When the newest fact happened that its particulars or contacts stand by."""
    sequence: int = 0
    """Sequence of the report that its particulars stand by; a clinic system counts in its own way."""
    erased_at: datetime | None = None
    version: int = 0

    @property
    def own_sequence(self) -> int:
        """Sequence of our event of this state: its version, but past what others counted before it."""
        return max(self.version, self.sequence + 1)
