"""The two declared journeys and the moments of their messages.

Pure. `follow-up`: 24 to 72 hours after a completed visit, with a survey link. `reminder`: 24 hours
before an appointment, with links to confirm and to cancel. Each gives the message that ought to
exist for a subject as it stands, or None: the plan is a function of the projections, so it is the
same in whatever order events came.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from engagement.messages.domain import LegalClass, Planned, message_id
from engagement.messages.policy import policy_of
from engagement.messages.windows import next_opening, zone_of

FOLLOW_UP = "follow-up"
REMINDER = "reminder"
STEP = "message"
VERSION = 1

FOLLOW_UP_AFTER = timedelta(hours=24)
FOLLOW_UP_UNTIL = timedelta(hours=72)
REMINDER_BEFORE = timedelta(hours=24)
REMINDER_UNTIL = timedelta(hours=2)


class Recipient(NamedTuple):
    """What a plan needs of the patient and the clinic.

    Args:
        time_zone: The patient's zone, or the clinic's.
        country: The clinic's country; picks the contact policy.
        live_from: What happened before it is history: no message.
        erased_at: When the patient was erased.
    """

    clinic_id: UUID
    patient_id: UUID
    time_zone: str
    country: str
    live_from: datetime
    erased_at: datetime | None


def follow_up(recipient: Recipient, visit_id: UUID, completed_at: datetime) -> Planned | None:
    """The follow-up of a completed visit, moved into the hours in which messages may leave."""
    if completed_at < recipient.live_from:
        return None
    return _planned(
        recipient,
        FOLLOW_UP,
        visit_id,
        legal_class=LegalClass.CARE,
        wished=completed_at + FOLLOW_UP_AFTER,
        expires_at=completed_at + FOLLOW_UP_UNTIL,
    )


def reminder(
    recipient: Recipient, appointment_id: UUID, starts_at: datetime, scheduled_at: datetime
) -> Planned | None:
    """The reminder of an appointment as it is scheduled now.

    Args:
        recipient: Whom it goes to.
        appointment_id: The appointment.
        starts_at: Its start.
        scheduled_at: When this start was agreed. A reminder whose moment had passed by then is
            skipped: the patient has just spoken to the clinic.
    """
    if starts_at < recipient.live_from:
        return None
    planned = _planned(
        recipient,
        REMINDER,
        appointment_id,
        legal_class=LegalClass.SERVICE,
        wished=starts_at - REMINDER_BEFORE,
        expires_at=starts_at - REMINDER_UNTIL,
        occurrence=starts_at.astimezone(UTC).isoformat(),
    )
    return planned if scheduled_at <= planned.due_at else None


def _planned(
    recipient: Recipient,
    journey: str,
    subject_id: UUID,
    *,
    legal_class: LegalClass,
    wished: datetime,
    expires_at: datetime,
    occurrence: str = "",
) -> Planned:
    clinic_id, patient_id, time_zone, country, _, erased_at = recipient
    quiet = policy_of(country).quiet
    # By place: of each visit of each clinic there is one.
    return Planned(
        clinic_id,
        message_id(clinic_id, patient_id, journey, subject_id, STEP, occurrence),
        patient_id,
        journey,
        STEP,
        subject_id,
        occurrence,
        legal_class,
        next_opening(wished, zone_of(time_zone), quiet),
        expires_at,
        erased_at,
    )


def planned_start(journey: str, occurrence: str) -> datetime | None:
    """The start of the appointment that a message was planned for; None where it depends on none."""
    return datetime.fromisoformat(occurrence) if journey == REMINDER else None
