"""What a patient may do with one tap: confirm, cancel, or ask to move an appointment."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import assert_never
from uuid import UUID

from booking.domain.appointment import OPEN, Appointment, CancelledBy, Status, cancel, confirm
from booking.domain.errors import IllegalMove

NO_REASON = "not_given"
"""Reason code of a patient who cancelled without saying why."""


class Answer(StrEnum):
    """What the patient wants; also the purpose of a link."""

    CONFIRM = "confirm"
    CANCEL = "cancel"
    MOVE = "move"


class LinkState(StrEnum):
    """What a link can still do."""

    OPEN = "open"
    USED = "used"
    EXPIRED = "expired"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Link:
    """A link that engagement sent, with what its page shows."""

    purpose: Answer
    appointment: Appointment
    clinic_name: str
    language: str
    time_zones: tuple[str, ...]
    """IANA zones to show times in, the best first: the patient's, then the clinic's."""
    expires_at: datetime
    used_at: datetime | None


def answer(
    appointment: Appointment, wish: Answer, reason_code: str | None, now: datetime
) -> Appointment:
    """The appointment after a patient's answer; unchanged where it says nothing new.

    A wish to move changes no plan: the clinic calls.

    Args:
        appointment: What the patient was asked about.
        wish: The answer.
        reason_code: Why, for a cancellation.
        now: When the patient answered.

    Raises:
        IllegalMove: There is nothing left to answer, or the plan changed after the answer was given.
    """
    is_waiting = appointment.status in OPEN
    has_begun = appointment.schedule is None or appointment.schedule.starts_at <= now
    is_stale = appointment.status_at is not None and now < appointment.status_at
    if not is_waiting or has_begun or is_stale:
        raise IllegalMove(f"be answered with {wish}", appointment.status)
    match wish:
        case Answer.CONFIRM:
            if appointment.status is Status.CONFIRMED:
                return appointment
            return confirm(appointment, now)
        case Answer.CANCEL:
            return cancel(appointment, CancelledBy.PATIENT, reason_code or NO_REASON, now)
        case Answer.MOVE:
            if appointment.move_requested_at is not None:
                return appointment
            return replace(appointment, move_requested_at=now, version=appointment.version + 1)
        case never:
            assert_never(never)


def state_of(link: Link, now: datetime) -> LinkState:
    """What the link can still do at `now`; expiry is exclusive."""
    if link.used_at is not None:
        return LinkState.USED
    if now >= link.expires_at:
        return LinkState.EXPIRED
    schedule = link.appointment.schedule
    if link.appointment.status not in OPEN or schedule is None or schedule.starts_at <= now:
        return LinkState.OVER
    return LinkState.OPEN


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that came in, about one appointment."""

    clinic_id: UUID
    appointment_id: UUID
    wish: Answer
    reason_code: str | None
    answered_at: datetime
