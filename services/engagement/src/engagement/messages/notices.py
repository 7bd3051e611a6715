"""What others are told of a message: integration events and contact tasks. Pure mapping.

The ids of events and tasks come from the message's, so that telling twice tells once.
"""

from datetime import datetime, timedelta

from engagement.messages.content import MessageFacts
from engagement.messages.queries import SentMessage
from engagement.tasks.domain import NewTask, Reason
from revisit_chassis.db import Row
from revisit_events.contracts import MessageDelivered, MessageFailed, MessageSent
from revisit_events.envelope import AnyEvent, new_event

SOURCE = "/engagement"
_CALL_WITHIN = timedelta(days=1)
_BEFORE_APPOINTMENT = timedelta(hours=1)


def sent(facts: MessageFacts, step: str, channel: str, at: datetime) -> AnyEvent:
    """A provider took the message."""
    return new_event(
        MessageSent(
            message_id=facts.message_id,
            patient_id=facts.patient_id,
            journey=facts.journey,
            step=step,
            channel=channel,
            legal_class=facts.legal_class,
        ),
        source=SOURCE,
        clinic_id=facts.clinic_id,
        time=at,
        sequence=1,
        id=f"{facts.message_id}:sent",
    )


def failed(
    facts: MessageFacts, step: str, channel: str, reason_code: str, at: datetime
) -> AnyEvent:
    """The message did not arrive, or nobody can tell."""
    return new_event(
        MessageFailed(
            message_id=facts.message_id,
            patient_id=facts.patient_id,
            journey=facts.journey,
            step=step,
            channel=channel,
            legal_class=facts.legal_class,
            reason_code=reason_code,
        ),
        source=SOURCE,
        clinic_id=facts.clinic_id,
        time=at,
        sequence=2,
        id=f"{facts.message_id}:failed",
    )


def not_delivered(facts: MessageFacts, step: str, channel: str, at: datetime) -> AnyEvent:
    """The provider reports that the message did not arrive.

    Another event than `failed`: a doubt may have been told before under that id.
    """
    return new_event(
        MessageFailed(
            message_id=facts.message_id,
            patient_id=facts.patient_id,
            journey=facts.journey,
            step=step,
            channel=channel,
            legal_class=facts.legal_class,
            reason_code="not_delivered",
        ),
        source=SOURCE,
        clinic_id=facts.clinic_id,
        time=at,
        sequence=2,
        id=f"{facts.message_id}:not_delivered",
    )


def delivered(facts: MessageFacts, step: str, channel: str, at: datetime) -> AnyEvent:
    """The provider reports that the message arrived."""
    return new_event(
        MessageDelivered(
            message_id=facts.message_id,
            patient_id=facts.patient_id,
            journey=facts.journey,
            step=step,
            channel=channel,
            legal_class=facts.legal_class,
        ),
        source=SOURCE,
        clinic_id=facts.clinic_id,
        time=at,
        sequence=3,
        id=f"{facts.message_id}:delivered",
    )


def facts_of(row: SentMessage | Row) -> MessageFacts:
    """What notices name of a stored message; a text is never made of it.

    Args:
        row: With the message's keys, journey, class and subject.
    """
    return MessageFacts(
        clinic_id=row.clinic_id,
        message_id=row.message_id,
        patient_id=row.patient_id,
        journey=row.journey,
        legal_class=row.legal_class,
        subject_id=row.subject_id,
        clinic_name="",
        time_zone="UTC",
        language="en",
        completed_at=None,
        starts_at=None,
    )


def unreachable(facts: MessageFacts, at: datetime) -> NewTask:
    """Somebody is to find another way to the patient."""
    return _task(facts, Reason.UNREACHABLE, at)


def uncertain(facts: MessageFacts, at: datetime) -> NewTask:
    """Somebody is to ask whether the message arrived: sending it again could deliver it twice."""
    return _task(facts, Reason.UNCERTAIN_DELIVERY, at)


def _task(facts: MessageFacts, reason: Reason, at: datetime) -> NewTask:
    due_at = at + _CALL_WITHIN
    if facts.starts_at is not None:
        # After the appointment nobody needs to hear of it any more.
        due_at = max(at, min(due_at, facts.starts_at - _BEFORE_APPOINTMENT))
    return NewTask(
        clinic_id=facts.clinic_id,
        patient_id=facts.patient_id,
        reason=reason,
        subject_id=facts.message_id,
        due_at=due_at,
        opened_at=at,
        not_before=at,
    )
