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
    """It has acted and asks no more; whether its answer still stands, `stands` tells."""
    EXPIRED = "expired"
    OVER = "over"
    UNSEEN = "unseen"
    """Open, but the answer was about another time than the appointment is at, or did not say which."""


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
    known_start: datetime | None
    """The start as it was known here when the link came, then the one that was last answered about."""

    @property
    def starts_at(self) -> datetime | None:
        """When the appointment is planned to start now."""
        schedule = self.appointment.schedule
        return schedule.starts_at if schedule else None

    @property
    def is_moved(self) -> bool:
        """Whether the appointment is known to be at another time than that."""
        return self.known_start is not None and self.starts_at != self.known_start


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
    """What the link can still do at `now`; expiry is exclusive.

    A link that was used asks anew when its answer does not stand any more: the appointment has moved since,
    and nobody has answered for that time. But a cancellation of an appointment that stands again at its old
    time is not asked for: a form that a browser sends a second time would cancel it.
    """
    is_waiting = is_to_come(link.appointment, now)
    is_expired = now >= link.expires_at
    asks_anew = link.is_moved or link.purpose is not Answer.CANCEL
    if link.used_at is not None and (
        stands(link, now) or is_expired or not (is_waiting and asks_anew)
    ):
        return LinkState.USED
    if is_expired:
        return LinkState.EXPIRED
    return LinkState.OPEN if is_waiting else LinkState.OVER


def is_to_come(appointment: Appointment, now: datetime) -> bool:
    """Whether the patient is still expected, at a time that has not come."""
    schedule = appointment.schedule
    return appointment.status in OPEN and schedule is not None and schedule.starts_at > now


def stands(link: Link, now: datetime) -> bool:
    """Whether the appointment is still as the answer by this link left it."""
    appointment = link.appointment
    if link.used_at is None or link.is_moved:
        return False
    match link.purpose:
        case Answer.CONFIRM:
            return appointment.status is Status.CONFIRMED and is_to_come(appointment, now)
        case Answer.CANCEL:
            return appointment.status is Status.CANCELLED
        case Answer.MOVE:
            return appointment.move_requested_at is not None and is_to_come(appointment, now)
        case never:
            assert_never(never)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that came in, about one appointment."""

    clinic_id: UUID
    appointment_id: UUID
    wish: Answer
    reason_code: str | None
    answered_at: datetime
