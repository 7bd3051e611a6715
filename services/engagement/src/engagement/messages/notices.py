"""What others are told of a message: integration events and contact tasks. Pure mapping.

The ids of events and tasks come from the message's, so that telling twice tells once.
"""

from dataclasses import fields
from datetime import datetime, timedelta

from engagement.messages.content import MessageKeys
from engagement.messages.queries import SentMessage
from engagement.tasks.domain import NewTask, Reason
from revisit_chassis.db import Row
from revisit_events.contracts import MessageDelivered, MessageFailed, MessageSent
from revisit_events.envelope import AnyEvent, new_event

SOURCE = "/engagement"
_CALL_WITHIN = timedelta(days=1)
_BEFORE_APPOINTMENT = timedelta(hours=1)


def sent(keys: MessageKeys, step: str, channel: str, at: datetime) -> AnyEvent:
    """A provider took the message."""
    return new_event(
        MessageSent(
            message_id=keys.message_id,
            patient_id=keys.patient_id,
            journey=keys.journey,
            step=step,
            channel=channel,
            legal_class=keys.legal_class,
        ),
        source=SOURCE,
        clinic_id=keys.clinic_id,
        time=at,
        sequence=1,
        id=f"{keys.message_id}:sent",
    )


def failed(keys: MessageKeys, step: str, channel: str, reason_code: str, at: datetime) -> AnyEvent:
    """The message did not arrive, or nobody can tell."""
    return new_event(
        MessageFailed(
            message_id=keys.message_id,
            patient_id=keys.patient_id,
            journey=keys.journey,
            step=step,
            channel=channel,
            legal_class=keys.legal_class,
            reason_code=reason_code,
        ),
        source=SOURCE,
        clinic_id=keys.clinic_id,
        time=at,
        sequence=2,
        id=f"{keys.message_id}:failed",
    )


def not_delivered(keys: MessageKeys, step: str, channel: str, at: datetime) -> AnyEvent:
    """The provider reports that the message did not arrive.

    Another event than `failed`: a doubt may have been told before under that id.
    """
    return new_event(
        MessageFailed(
            message_id=keys.message_id,
            patient_id=keys.patient_id,
            journey=keys.journey,
            step=step,
            channel=channel,
            legal_class=keys.legal_class,
            reason_code="not_delivered",
        ),
        source=SOURCE,
        clinic_id=keys.clinic_id,
        time=at,
        sequence=2,
        id=f"{keys.message_id}:not_delivered",
    )


def delivered(keys: MessageKeys, step: str, channel: str, at: datetime) -> AnyEvent:
    """The provider reports that the message arrived."""
    return new_event(
        MessageDelivered(
            message_id=keys.message_id,
            patient_id=keys.patient_id,
            journey=keys.journey,
            step=step,
            channel=channel,
            legal_class=keys.legal_class,
        ),
        source=SOURCE,
        clinic_id=keys.clinic_id,
        time=at,
        sequence=3,
        id=f"{keys.message_id}:delivered",
    )


def keys_of(row: SentMessage | Row) -> MessageKeys:
    """What notices name of a stored message.

    Args:
        row: With columns of these names.
    """
    return MessageKeys(*(getattr(row, field.name) for field in fields(MessageKeys)))


def unreachable(keys: MessageKeys, at: datetime) -> NewTask:
    """Somebody is to find another way to the patient."""
    return _task(keys, Reason.UNREACHABLE, at)


def uncertain(keys: MessageKeys, at: datetime) -> NewTask:
    """Somebody is to ask whether the message arrived: sending it again could deliver it twice."""
    return _task(keys, Reason.UNCERTAIN_DELIVERY, at)


def _task(keys: MessageKeys, reason: Reason, at: datetime) -> NewTask:
    due_at = at + _CALL_WITHIN
    if keys.starts_at is not None:
        # After the appointment nobody needs to hear of it any more.
        due_at = max(at, min(due_at, keys.starts_at - _BEFORE_APPOINTMENT))
    return NewTask(
        clinic_id=keys.clinic_id,
        patient_id=keys.patient_id,
        reason=reason,
        subject_id=keys.message_id,
        due_at=due_at,
        opened_at=at,
        not_before=at,
    )
