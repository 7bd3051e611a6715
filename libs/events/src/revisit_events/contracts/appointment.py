"""The life of an appointment, and the slot that it leaves free."""

from typing import ClassVar, Literal

from revisit_events.contracts.fields import (
    Code,
    Count,
    EventData,
    Flag,
    Id,
    Probability,
    Time,
    written,
)


class _AppointmentEvent(EventData, frozen=True, kw_only=True):
    """What every event of an appointment names."""

    OWNER: ClassVar[str] = "booking"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement", "scoring")
    AGGREGATE_ID: ClassVar[str] = "appointment_id"

    appointment_id: Id
    """The appointment."""
    patient_id: Id
    """Whose appointment it is."""


class AppointmentBooked(_AppointmentEvent, frozen=True, kw_only=True):
    """A meeting was planned."""

    TYPE: ClassVar[str] = "appointment.booked.v1"
    LIFECYCLE_RANK: ClassVar[int] = 10

    practitioner_id: Id | None = None
    """Whom the patient will see."""
    service_code: Code | None = None
    """The clinic's code of the service, such as `dental.filling`."""
    specialty_code: Code | None = None
    """Such as `dentistry, cardiology, therapy`."""
    starts_at: Time
    """Planned start."""
    ends_at: Time | None = None
    """Planned end."""
    booked_at: Time | None = None
    """When it was booked; the event's time when left out."""
    channel: Code | None = None
    """`online, call_centre, walk_in, system`."""
    modality: Literal["in_person", "telemedicine"] = written(default="in_person")
    """How they meet."""


class AppointmentRescheduled(AppointmentBooked, frozen=True, kw_only=True):
    """The meeting was moved; the event holds the new plan."""

    TYPE: ClassVar[str] = "appointment.rescheduled.v1"
    LIFECYCLE_RANK: ClassVar[int] = 20


class AppointmentConfirmed(_AppointmentEvent, frozen=True, kw_only=True):
    """The patient said that they will come; the plan is repeated where the sender knows it."""

    TYPE: ClassVar[str] = "appointment.confirmed.v1"
    LIFECYCLE_RANK: ClassVar[int] = 30

    practitioner_id: Id | None = None
    """Whom the patient will see."""
    service_code: Code | None = None
    """The clinic's code of the service."""
    specialty_code: Code | None = None
    """Such as `dentistry, cardiology, therapy`."""
    starts_at: Time | None = None
    """Planned start."""
    ends_at: Time | None = None
    """Planned end."""
    booked_at: Time | None = None
    """When it was booked."""
    channel: Code | None = None
    """Where the answer came in: `online, call_centre, walk_in, system`."""
    modality: Literal["in_person", "telemedicine"] = written(default="in_person")
    """How they meet."""


class AppointmentCancelled(_AppointmentEvent, frozen=True, kw_only=True):
    """The meeting will not take place."""

    TYPE: ClassVar[str] = "appointment.cancelled.v1"
    LIFECYCLE_RANK: ClassVar[int] = 60

    by: Literal["patient", "clinic", "system"]
    """Who cancelled."""
    reason_code: Code | None = None
    """Such as `illness, no_time, price, went_elsewhere, practitioner_absent`."""
    late: Flag = written(default=False)
    """Whether it came too late to fill the slot, by the clinic's rule."""


class AppointmentNoShow(_AppointmentEvent, frozen=True, kw_only=True):
    """The patient did not come."""

    TYPE: ClassVar[str] = "appointment.no_show.v1"
    LIFECYCLE_RANK: ClassVar[int] = 70

    marked_by: Code
    """`system` for the timer, else such as `reception, practitioner`."""
    grace_minutes: Count | None = None
    """How long after the planned end the clinic waited, minutes."""
    definition_version: Code | None = None
    """Version of the rule that says what a no-show is."""


class AppointmentNoShowReversed(_AppointmentEvent, frozen=True, kw_only=True):
    """The patient did come after all."""

    TYPE: ClassVar[str] = "appointment.no_show_reversed.v1"
    LIFECYCLE_RANK: ClassVar[int] = 80

    marked_by: Code
    """Who corrected it: `system, reception, practitioner`."""


class AppointmentAnswered(_AppointmentEvent, frozen=True, kw_only=True):
    """A patient answered a message about an appointment."""

    TYPE: ClassVar[str] = "appointment.answered.v1"
    OWNER: ClassVar[str] = "engagement"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("booking",)

    answer: Literal["confirm", "cancel", "move"]
    """What the patient wants."""
    reason: Code | None = None
    """Code of the reason given, such as `illness`."""
    message_id: Id | None = None
    """The message that was answered."""


class AppointmentNoShowRiskScored(_AppointmentEvent, frozen=True, kw_only=True):
    """How likely the patient is not to come."""

    TYPE: ClassVar[str] = "appointment.no_show_risk_scored.v1"
    OWNER: ClassVar[str] = "scoring"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement", "booking")

    probability: Probability
    """Probability of a no-show, 0 to 1."""
    band: Code
    """`low, medium, high`."""
    model_version: Code
    """Version of the model."""


class SlotFreed(EventData, frozen=True, kw_only=True):
    """Time of a practitioner can be booked again."""

    TYPE: ClassVar[str] = "slot.freed.v1"
    OWNER: ClassVar[str] = "booking"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement",)
    AGGREGATE_ID: ClassVar[str] = "slot_id"

    slot_id: Id
    """The slot."""
    appointment_id: Id | None = None
    """The appointment that left it."""
    practitioner_id: Id | None = None
    """Whose time it is."""
    service_code: Code | None = None
    """The service it was meant for."""
    starts_at: Time
    """Start of the free time."""
    ends_at: Time | None = None
    """End of the free time."""
