"""Words of a message's life: states, legal classes, channels, outcomes of a provider, identities.

Pure; used by the gate, the journeys, the sender and the channels. A message is due once, and at
rest it is `sent`, `uncertain` or `dropped`: the sum of the three is what was due.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from revisit_chassis.identifiers import named_uuid


class LegalClass(StrEnum):
    """What a message is before the law; decides which consent it needs."""

    SERVICE = "service"
    CARE = "care"
    ADVERTISING = "advertising"


class Channel(StrEnum):
    """A way to a patient, in the order in which one is chosen.

    E-mail has no key by which a repeat is recognised, so a letter is never asked for twice.
    """

    EMAIL = "email"
    SMS = "sms"


class MessageState(StrEnum):
    """Where a message is; the last three are its ends."""

    SCHEDULED = "scheduled"
    SENDING = "sending"
    SENT = "sent"
    UNCERTAIN = "uncertain"
    DROPPED = "dropped"


class Outcome(StrEnum):
    """What one call of a provider came to."""

    SENT = "sent"  # the provider took it over
    RETRY = "retry"  # surely not taken; worth another attempt
    REJECTED = "rejected"  # surely not taken, and never will be
    UNCERTAIN = "uncertain"  # unknown, and asking again could deliver it twice
    WITHDRAWN = "withdrawn"  # not called: what it was decided by has changed since


@dataclass(frozen=True, slots=True)
class SendResult:
    """Outcome of a provider call, without anything personal in it.

    Args:
        outcome: What it came to.
        detail: Short technical reason, such as `http_429`; kept with the message.
        provider_id: The provider's own id of the message.
        retry_after_seconds: What the provider asked to wait.
        may_have_arrived: With `retry`: the call may have worked, and only the same call again may
            follow.
    """

    outcome: Outcome
    detail: str
    provider_id: str | None = None
    retry_after_seconds: float | None = None
    may_have_arrived: bool = False


class WaitingFor(StrEnum):
    """Why a scheduled message is not simply due."""

    PROVIDER = "provider"  # surely not taken; called again later
    ANSWER = "answer"  # called, and nobody knows; only the same call may follow
    CONTACT = (
        "contact"  # it may be on its way; judged again as soon as all that was sent is applied
    )
    RELEASE = "release"  # held by a pause or by a feed that is behind


_LIFETIME_OF_ATTEMPTS = 12
_FIRST_BACKOFF_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 300.0


def message_id(
    clinic_id: UUID,
    patient_id: UUID,
    journey: str,
    subject_id: UUID,
    step: str,
    occurrence: str,
) -> UUID:
    """The id of a message from its business key: planning it again can never make a second one.

    Args:
        clinic_id: Tenant; namespace of the id.
        patient_id: Whom it goes to.
        journey: Key of the journey.
        subject_id: What it is about: a visit, an appointment.
        step: Key of the journey's step.
        occurrence: Which time, where a step repeats: a reminder's start of the appointment.
    """
    return named_uuid(clinic_id, f"message:{patient_id}:{journey}:{subject_id}:{step}:{occurrence}")


def retry_delay(attempt: int, retry_after_seconds: float | None, jitter: float) -> timedelta:
    """How long to wait before the next call of a provider, in real time.

    Doubles from 1 s to 5 minutes; a provider's wish is obeyed up to an hour.

    Args:
        attempt: Calls made so far, from 1.
        retry_after_seconds: The provider's wish, if any.
        jitter: A number from 0 to 1 that spreads the crowd by up to a quarter.

    >>> retry_delay(3, None, 0.0)
    datetime.timedelta(seconds=4)
    >>> retry_delay(1, 30.0, 0.0)
    datetime.timedelta(seconds=30)
    """
    exponent = min(max(attempt, 1), _LIFETIME_OF_ATTEMPTS) - 1
    backoff = min(_FIRST_BACKOFF_SECONDS * 2**exponent, _LONGEST_BACKOFF_SECONDS)
    wished = min(max(retry_after_seconds or 0.0, 0.0), 3600.0)
    return timedelta(seconds=max(backoff, wished) * (1 + jitter / 4))


class Planned(NamedTuple):
    """A message that ought to exist, as a journey computed it from the projections.

    The columns of the database's type `planned_message`.
    """

    clinic_id: UUID
    message_id: UUID
    patient_id: UUID
    journey: str
    step: str
    subject_id: UUID
    occurrence: str
    legal_class: LegalClass
    due_at: datetime
    expires_at: datetime
    erased_at: datetime | None
