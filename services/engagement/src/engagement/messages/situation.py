"""What a message is judged by: the rows of a batch as the gate's and the texts' values. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from engagement.journeys.domain import FOLLOW_UP, planned_start
from engagement.messages.content import MessageFacts, Person, PublicUrls
from engagement.messages.domain import Channel, LegalClass, MessageState, WaitingFor
from engagement.messages.gate import AppointmentFact, Situation
from engagement.messages.policy import policy_of
from engagement.messages.store import DueMessage
from engagement.messages.windows import local_day, zone_of
from engagement.rendering.domain import supported_language
from revisit_chassis.clock import Clock
from revisit_chassis.crypto import Keyring

Patient = tuple[UUID, UUID]

# Two clocks, and two messages of one batch that the broker takes side by side.
ON_ITS_WAY = timedelta(seconds=2)


class Feed(NamedTuple):
    """What is known of the events that engagement is told.

    Args:
        is_fresh: Whether those of the last minute have been applied.
        heard_until: Until when all that was sent has been applied; real time.
    """

    is_fresh: bool
    heard_until: datetime


@dataclass(frozen=True, slots=True)
class Background:
    """All that a batch is judged by, besides the messages themselves.

    Args:
        keyring: Opens contacts, seals drafts.
        urls: Where links lead.
        channels: Channels that are configured.
        feed: What is known of the events that led here.
        consent: What stands for a patient, by purpose and channel.
        pauses: Scopes paused in a clinic.
        sent: When messages that count towards the cap left for a patient; grows with the batch.
        clock: Business time.
        real_now: Real time, for waits.
        lease_until: Real time until which those that leave stay claimed.
    """

    keyring: Keyring
    urls: PublicUrls
    channels: frozenset[Channel]
    feed: Feed
    consent: Mapping[Patient, Mapping[tuple[str, str], str]]
    pauses: Mapping[UUID, frozenset[str]]
    sent: dict[Patient, list[tuple[UUID, datetime]]]
    clock: Clock
    real_now: datetime
    lease_until: datetime


def moment(row: DueMessage, clock: Clock) -> datetime:
    """When a message is judged: at its due time, or now when it has waited.

    One that waits for a contact is judged as if it had not: how long that takes is the transport's matter.
    """
    has_waited = row.waiting_for is not None and row.waiting_for != WaitingFor.CONTACT
    at = clock.now() if has_waited else clock.at(row.due_at)
    return max(at, row.decided_at) if row.decided_at else at


def situation_of(row: DueMessage, whom: Person, background: Background) -> Situation:
    """Everything the gate wants to know of one message."""
    at, key = moment(row, background.clock), (row.clinic_id, row.patient_id)
    start, end = local_day(at, zone_of(row.time_zone))
    expected = planned_start(row.journey, row.occurrence)
    return Situation(
        now=at,
        journey=row.journey,
        legal_class=LegalClass(row.legal_class),
        expires_at=row.expires_at,
        time_zone=row.time_zone,
        policy=policy_of(row.country),
        reachable=frozenset(whom.address) & background.channels,
        consent=background.consent.get(key, {}),
        is_erased=row.erased_at is not None,
        is_released=row.is_released,
        pauses=background.pauses.get(row.clinic_id, frozenset()),
        sent_on_day=sum(
            start <= left_at < end
            for message_id, left_at in background.sent.get(key, ())
            if message_id != row.message_id
        ),
        needs_appointment=expected is not None,
        appointment=appointment_fact(row.appointment_status, row.starts_at),
        planned_start=expected,
        is_subject_theirs=row.journey != FOLLOW_UP or row.completed_at is not None,
        is_contact_unreadable=whom.is_unreadable,
        is_contact_unheard=row.contact_precedence is None
        and background.feed.heard_until < row.planned_at + ON_ITS_WAY,
        called_by=channel_called(row),
        is_feed_fresh=background.feed.is_fresh,
    )


def appointment_fact(status: str | None, starts_at: datetime | None) -> AppointmentFact | None:
    """The appointment as the gate sees it; None for one that nobody knows."""
    return None if status is None else AppointmentFact(status, starts_at)


def channel_called(row: DueMessage) -> Channel | None:
    """The channel that may have delivered the message already."""
    was_called = row.state == MessageState.SENDING or row.waiting_for == WaitingFor.ANSWER
    return Channel(row.channel) if was_called and row.channel is not None else None


def facts_of(row: DueMessage) -> MessageFacts:
    """What the text of a message is filled with."""
    return MessageFacts(
        clinic_id=row.clinic_id,
        message_id=row.message_id,
        patient_id=row.patient_id,
        journey=row.journey,
        legal_class=row.legal_class,
        subject_id=row.subject_id,
        clinic_name=row.clinic_name,
        time_zone=row.time_zone,
        language=supported_language(row.language, row.clinic_language),
        completed_at=row.completed_at,
        starts_at=row.starts_at,
    )
