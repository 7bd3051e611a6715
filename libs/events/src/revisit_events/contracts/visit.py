"""What really took place, and who was lost before it could."""

from typing import ClassVar, Literal

from revisit_events.contracts.fields import Code, Currency, Day, EventData, Id, Minor, Part, Time


class Referral(Part, frozen=True, kw_only=True):
    """Why the patient was sent elsewhere."""

    reason: Code
    """Such as `no_equipment, no_specialist, higher_level_of_care`."""
    urgency: Code | None = None
    """Such as `acute, urgent, routine`."""


class VisitCompleted(EventData, frozen=True, kw_only=True):
    """A visit ended."""

    TYPE: ClassVar[str] = "visit.completed.v1"
    OWNER: ClassVar[str] = "booking"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement", "feedback", "scoring")
    AGGREGATE_ID: ClassVar[str] = "visit_id"
    LIFECYCLE_RANK: ClassVar[int] = 100

    visit_id: Id
    """The visit."""
    appointment_id: Id | None = None
    """The appointment it came from; none for a patient who walked in."""
    patient_id: Id
    """Who came."""
    practitioner_id: Id | None = None
    """Whom the patient saw."""
    service_code: Code | None = None
    """The clinic's code of the service, such as `dental.filling`."""
    specialty_code: Code | None = None
    """Such as `dentistry, cardiology, therapy`."""
    kind: Literal[
        "complaint", "vaccination", "check_up", "procedure", "consultation", "chronic_control"
    ]
    """Why the patient came."""
    outcome: Literal[
        "treated",
        "healthy",
        "in_treatment",
        "treatment_not_started",
        "referred_out",
        "under_observation",
    ]
    """How it ended."""
    arrived_at: Time | None = None
    """When the patient arrived; with `started_at` it gives the waiting time."""
    started_at: Time | None = None
    """When the practitioner began."""
    completed_at: Time
    """When it ended."""
    next_visit_due_on: Day | None = None
    """By when the practitioner wants to see the patient again."""
    referral: Referral | None = None
    """Given when the patient was sent elsewhere."""
    charged_minor: Minor | None = None
    """What was charged, minor units."""
    cost_minor: Minor | None = None
    """What it cost the clinic, minor units."""
    currency: Currency | None = None
    """ISO 4217 code of both; the clinic's when left out."""


class LeadLost(EventData, frozen=True, kw_only=True):
    """Somebody asked and did not book."""

    TYPE: ClassVar[str] = "lead.lost.v1"
    OWNER: ClassVar[str] = "booking"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement", "scoring")
    AGGREGATE_ID: ClassVar[str] = "lead_id"

    lead_id: Id
    """The request."""
    patient_id: Id | None = None
    """Who asked, if known."""
    channel: Code | None = None
    """Such as `online, call_centre, walk_in, messenger`."""
    reason_code: Code | None = None
    """Such as `no_suitable_time, price, no_specialist, just_asking`."""
