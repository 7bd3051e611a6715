"""What a visit is."""

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from uuid import UUID

from booking.domain.appointment import Appointment
from booking.domain.errors import InvalidVisit

WAITING_DEFINITION = "1"
WAITING_TARGET_MINUTES = 15
"""Mission B08: the mean is to stay under it."""


class Kind(StrEnum):
    """Why the patient came."""

    COMPLAINT = "complaint"
    VACCINATION = "vaccination"
    CHECK_UP = "check_up"
    PROCEDURE = "procedure"
    CONSULTATION = "consultation"
    CHRONIC_CONTROL = "chronic_control"


class Outcome(StrEnum):
    """How the visit ended for the patient's health."""

    TREATED = "treated"
    HEALTHY = "healthy"
    IN_TREATMENT = "in_treatment"
    TREATMENT_NOT_STARTED = "treatment_not_started"
    REFERRED_OUT = "referred_out"
    UNDER_OBSERVATION = "under_observation"


@dataclass(frozen=True, slots=True)
class Referral:
    """Why the clinic sent the patient elsewhere, and how urgent that is (mission B19)."""

    reason: str
    urgency: str


@dataclass(frozen=True, slots=True)
class Charge:
    """What the visit brought and cost, in minor units of one currency."""

    charged_minor: int | None
    cost_minor: int | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class Visit:
    """What really took place."""

    visit_id: UUID
    appointment_id: UUID | None
    patient_id: UUID
    practitioner_id: UUID | None
    service_code: str | None
    specialty_code: str | None
    kind: Kind
    outcome: Outcome
    arrived_at: datetime | None
    started_at: datetime | None
    completed_at: datetime
    next_visit_due_on: date | None
    referral: Referral | None
    charge: Charge


@dataclass(frozen=True, slots=True)
class Findings:
    """What the doctor records at the end."""

    kind: Kind
    outcome: Outcome
    referral: Referral | None
    next_visit_due_on: date | None
    charge: Charge


def visit_of(visit_id: UUID, completed: Appointment, findings: Findings, now: datetime) -> Visit:
    """The visit that an appointment became.

    Raises:
        InvalidVisit: Referred out without saying where the need is, or a referral of somebody treated here.
    """
    is_referred = findings.outcome is Outcome.REFERRED_OUT
    if is_referred != (findings.referral is not None):
        raise InvalidVisit("A referral belongs to the outcome referred_out, and to no other.")
    schedule = completed.schedule
    return Visit(
        visit_id=visit_id,
        appointment_id=completed.appointment_id,
        patient_id=completed.patient_id,
        practitioner_id=schedule.practitioner_id if schedule else None,
        service_code=schedule.service_code if schedule else None,
        specialty_code=schedule.specialty_code if schedule else None,
        kind=findings.kind,
        outcome=findings.outcome,
        arrived_at=completed.arrived_at,
        started_at=completed.started_at,
        completed_at=now,
        next_visit_due_on=findings.next_visit_due_on,
        referral=findings.referral,
        charge=findings.charge,
    )
