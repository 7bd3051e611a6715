"""What engagement does: links, journeys, messages, contact tasks, consent."""

from typing import ClassVar, Literal

from revisit_events.contracts.fields import (
    Code,
    Count,
    Currency,
    EventData,
    Id,
    Language,
    LegalClass,
    Minor,
    Number,
    Time,
    written,
)


class LinkIssued(EventData, frozen=True, kw_only=True):
    """A public link went to a patient; the service that owns the subject serves its page."""

    TYPE: ClassVar[str] = "link.issued.v1"
    OWNER: ClassVar[str] = "engagement"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("booking", "feedback", "scoring")
    AGGREGATE_ID: ClassVar[str] = "link_id"

    link_id: Id
    """The link."""
    patient_id: Id
    """To whom it was sent."""
    purpose: Code
    """`confirm, cancel, move, survey, preferences`: a link serves one purpose only."""
    subject_id: Id
    """What it is about: an appointment, for `survey` a visit."""
    token_hash: Code
    """SHA-256 of the link's token, hexadecimal; the token itself is stored nowhere."""
    expires_at: Time
    """From when on the link is dead."""
    language: Language | None = None
    """Language of the page; the clinic's when left out."""
    message_id: Id | None = None
    """The message that carries it."""


class JourneyEnrolled(EventData, frozen=True, kw_only=True):
    """A patient entered a journey."""

    TYPE: ClassVar[str] = "journey.enrolled.v1"
    OWNER: ClassVar[str] = "engagement"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("scoring",)
    AGGREGATE_ID: ClassVar[str] = "enrolment_id"

    enrolment_id: Id
    """The run of the journey."""
    patient_id: Id
    """Who entered."""
    journey: Code
    """Key of the journey, such as `follow-up, reminder`."""
    version: Count
    """Version of the journey."""
    subject_id: Id
    """What it is about: the visit or the appointment."""
    arm: Literal["treated", "held_out"] = written(default="treated")
    """Whether the patient is contacted or held out for comparison."""


class _MessageEvent(EventData, frozen=True, kw_only=True):
    """What every event of a message names."""

    OWNER: ClassVar[str] = "engagement"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("scoring",)
    AGGREGATE_ID: ClassVar[str] = "message_id"

    message_id: Id
    """The message."""
    patient_id: Id
    """To whom it goes."""
    journey: Code
    """Key of the journey."""
    step: Code
    """Key of the step in the journey."""
    channel: Code
    """`email, sms`, a messenger's name."""
    legal_class: LegalClass
    """Which consent it needed."""
    cost_minor: Minor | None = None
    """What sending it cost, minor units."""
    currency: Currency | None = None
    """ISO 4217 code of the cost."""


class MessageSent(_MessageEvent, frozen=True, kw_only=True):
    """A provider took the message."""

    TYPE: ClassVar[str] = "message.sent.v1"
    LIFECYCLE_RANK: ClassVar[int] = 10


class MessageFailed(_MessageEvent, frozen=True, kw_only=True):
    """The message did not reach the patient, or nobody can tell."""

    TYPE: ClassVar[str] = "message.failed.v1"
    LIFECYCLE_RANK: ClassVar[int] = 20

    reason_code: Code | None = None
    """Such as `rejected, bounced, expired, uncertain`."""


class MessageDelivered(_MessageEvent, frozen=True, kw_only=True):
    """The provider reports that the message arrived."""

    TYPE: ClassVar[str] = "message.delivered.v1"
    LIFECYCLE_RANK: ClassVar[int] = 30


class TaskOpened(EventData, frozen=True, kw_only=True):
    """A piece of call-centre work is due."""

    TYPE: ClassVar[str] = "task.opened.v1"
    OWNER: ClassVar[str] = "engagement"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("scoring",)
    AGGREGATE_ID: ClassVar[str] = "task_id"
    LIFECYCLE_RANK: ClassVar[int] = 10

    task_id: Id
    """The task."""
    patient_id: Id
    """Whom to contact."""
    reason: Code
    """`no_next_appointment, no_show, cancelled, unreachable, uncertain_delivery, low_score,
    referred_out`."""
    subject_id: Id | None = None
    """What it is about: the visit, appointment, message or complaint."""
    due_at: Time | None = None
    """By when it is to be done."""


class TaskClosed(EventData, frozen=True, kw_only=True):
    """A contact task ended."""

    TYPE: ClassVar[str] = "task.closed.v1"
    OWNER: ClassVar[str] = "engagement"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("scoring",)
    AGGREGATE_ID: ClassVar[str] = "task_id"
    LIFECYCLE_RANK: ClassVar[int] = 20

    task_id: Id
    """The task."""
    patient_id: Id
    """Whom it was about."""
    reason: Code
    """Why it was opened."""
    outcome: Code
    """Such as `booked, released, refused, unreachable, done, not_needed, expired`."""
    attempts: Count = written(default=0)
    """How often the patient was tried."""
    minutes: Number | None = None
    """Working time spent, minutes."""


class ConsentChanged(EventData, frozen=True, kw_only=True):
    """A patient's consent for a purpose and a channel is now this."""

    TYPE: ClassVar[str] = "consent.changed.v1"
    OWNER: ClassVar[str] = "engagement"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("scoring",)
    AGGREGATE_ID: ClassVar[str] = "patient_id"

    patient_id: Id
    """Whose consent."""
    purpose: Code
    """A legal class: `service, care, advertising`."""
    channel: Code
    """`email, sms, call`, a messenger's name."""
    state: Code
    """`granted, refused`."""
