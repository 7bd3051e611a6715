"""The life cycle of an appointment.

Commands take the appointment and the moment, and return the new value or raise a named error. What other
systems *report* is no command and is never refused here: `booking.projection` orders reports by precedence.

    booked -> confirmed -> arrived -> in_progress -> completed
    booked, confirmed -> cancelled, no_show      arrived -> cancelled      no_show -> arrived
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from booking.domain.errors import IllegalMove, InvalidSchedule, NotStartedYet

LATE_CANCELLATION = timedelta(hours=24)
"""A cancellation this close to the start is late: the freed time can hardly be offered again."""

NO_SHOW_GRACE = timedelta(minutes=30)
ASSUMED_DURATION = timedelta(minutes=30)
"""Stands for the length of an appointment whose end nobody told us."""

SYSTEM = "system"
"""Marks a no-show that is the timer's guess."""

NO_SHOW_DEFINITION = "1"
"""Version of the rule in `no_show_due_at`; raise it with every change, old counts keep theirs."""


class Status(StrEnum):
    """Where an appointment stands."""

    BOOKED = "booked"
    CONFIRMED = "confirmed"
    ARRIVED = "arrived"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    NO_SHOW = "no_show"


class CancelledBy(StrEnum):
    """Who called an appointment off."""

    PATIENT = "patient"
    CLINIC = "clinic"
    SYSTEM = "system"


OPEN = frozenset({Status.BOOKED, Status.CONFIRMED})
"""States that wait for the patient to come."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """When, where from and with whom; what booking and rescheduling decide."""

    starts_at: datetime
    ends_at: datetime | None
    booked_at: datetime
    practitioner_id: UUID | None = None
    service_code: str | None = None
    specialty_code: str | None = None
    channel: str | None = None
    modality: str | None = None


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Who cancelled, why, and whether too late to offer the time again."""

    by: CancelledBy
    reason_code: str
    is_late: bool


@dataclass(frozen=True, slots=True)
class Appointment:
    """A planned meeting. Without status or schedule it is a stub: something referred to it first."""

    appointment_id: UUID
    patient_id: UUID
    status: Status | None
    schedule: Schedule | None
    status_at: datetime | None
    version: int = 0
    sequence: int = 0
    """Sequence of the report that the status stands by; a clinic system counts in its own way."""
    rests_on: str = ""
    """Place in the order of facts of the newest report under the status, guesses of ours apart."""
    cancellation: Cancellation | None = None
    marked_by: str | None = None
    arrived_at: datetime | None = None
    started_at: datetime | None = None
    move_requested_at: datetime | None = None
    no_show_reason_code: str | None = None

    @property
    def own_sequence(self) -> int:
        """Sequence of our event of this state: its version, but past what others counted before it."""
        return max(self.version, self.sequence + 1)


def book(appointment_id: UUID, patient_id: UUID, schedule: Schedule, now: datetime) -> Appointment:
    """A new appointment.

    Raises:
        InvalidSchedule: It would end before it starts.
    """
    _check(schedule)
    return Appointment(
        appointment_id, patient_id, Status.BOOKED, schedule, status_at=now, version=1
    )


def confirm(appointment: Appointment, now: datetime) -> Appointment:
    """The patient said that they will come.

    Raises:
        IllegalMove: It is not simply booked.
    """
    return _move(appointment, Status.CONFIRMED, {Status.BOOKED}, "be confirmed", now)


def reschedule(
    appointment: Appointment,
    starts_at: datetime,
    ends_at: datetime | None,
    now: datetime,
    practitioner_id: UUID | None = None,
) -> Appointment:
    """The same appointment at another time: to be confirmed anew, a wish to move it is answered.

    Args:
        appointment: What is moved.
        starts_at: New start.
        ends_at: New end; None keeps the length.
        now: Moment of the command.
        practitioner_id: New practitioner; None keeps the old one.

    Raises:
        IllegalMove: It is neither booked nor confirmed.
        InvalidSchedule: It would end before it starts.
    """
    moved = _move(appointment, Status.BOOKED, OPEN, "be rescheduled", now)
    before = appointment.schedule
    if before is None:
        raise IllegalMove("be rescheduled", None)
    if ends_at is None and before.ends_at is not None:
        # A reported end before the start gives no length to keep.
        is_usable = before.ends_at > before.starts_at
        ends_at = starts_at + (before.ends_at - before.starts_at) if is_usable else None
    schedule = replace(
        before,
        starts_at=starts_at,
        ends_at=ends_at,
        practitioner_id=practitioner_id or before.practitioner_id,
    )
    _check(schedule)
    return replace(moved, schedule=schedule, move_requested_at=None)


def cancel(
    appointment: Appointment, by: CancelledBy, reason_code: str, now: datetime
) -> Appointment:
    """The appointment will not take place.

    Raises:
        IllegalMove: The patient is already inside, or it is over.
    """
    cancelled = _move(appointment, Status.CANCELLED, OPEN | {Status.ARRIVED}, "be cancelled", now)
    is_late = is_late_cancellation(appointment.schedule, now)
    return replace(cancelled, cancellation=Cancellation(by, reason_code, is_late))


def arrive(appointment: Appointment, now: datetime) -> Appointment:
    """The patient is at the reception; this also undoes a no-show marked too early.

    Raises:
        IllegalMove: It is cancelled or over, or the patient has arrived before.
    """
    arrived = _move(appointment, Status.ARRIVED, OPEN | {Status.NO_SHOW}, "be arrived at", now)
    return replace(arrived, arrived_at=now)


def start(appointment: Appointment, now: datetime) -> Appointment:
    """The practitioner has called the patient in.

    Raises:
        IllegalMove: The patient has not arrived.
    """
    started = _move(appointment, Status.IN_PROGRESS, {Status.ARRIVED}, "be started", now)
    return replace(started, started_at=now)


def complete(appointment: Appointment, now: datetime) -> Appointment:
    """The visit took place.

    Raises:
        IllegalMove: It was never started, or it is over.
    """
    return _move(appointment, Status.COMPLETED, {Status.IN_PROGRESS}, "be completed", now)


def miss(appointment: Appointment, marked_by: str, now: datetime) -> Appointment:
    """The patient did not come.

    Args:
        appointment: What was missed.
        marked_by: `system` for the timer, else the role of the person who says so.
        now: Moment of the command.

    Raises:
        IllegalMove: The patient came, or it was cancelled.
        NotStartedYet: It is too early to say.
    """
    missed = _move(appointment, Status.NO_SHOW, OPEN, "be missed", now)
    schedule = appointment.schedule
    if schedule is not None and now < schedule.starts_at:
        raise NotStartedYet(schedule.starts_at)
    return replace(missed, marked_by=marked_by)


def no_show_due_at(starts_at: datetime, ends_at: datetime | None) -> datetime:
    """When the timer takes an appointment for missed.

    The end (or `ASSUMED_DURATION` after the start) plus `NO_SHOW_GRACE`. A reported end that is not after
    the start says nothing about the length.

    >>> from datetime import UTC
    >>> no_show_due_at(datetime(2026, 1, 15, 12, 30, tzinfo=UTC), None).isoformat()
    '2026-01-15T13:30:00+00:00'
    """
    if ends_at is None or ends_at <= starts_at:
        ends_at = starts_at + ASSUMED_DURATION
    return ends_at + NO_SHOW_GRACE


def missed_at(schedule: Schedule, status_at: datetime | None) -> datetime:
    """When a no-show found by the timer happened: at the start, when nobody came.

    Not when the timer ran: a visit reported hours late ends after the start and therefore outweighs the
    timer's guess by the ordinary order of facts. Never before what the appointment stands on already.
    """
    return max(schedule.starts_at, status_at) if status_at else schedule.starts_at


def is_late_cancellation(schedule: Schedule | None, now: datetime) -> bool:
    """Whether a cancellation at `now` comes less than `LATE_CANCELLATION` before the start."""
    return schedule is not None and schedule.starts_at - now < LATE_CANCELLATION


def _move(
    appointment: Appointment,
    target: Status,
    allowed: frozenset[Status] | set[Status],
    words: str,
    now: datetime,
) -> Appointment:
    if appointment.status not in allowed:
        raise IllegalMove(words, appointment.status)
    # A clinic system's clock may run ahead of ours. A command that follows what it reported must not
    # sort before it anywhere, so it takes at least that moment (the sequence then breaks the tie).
    moment = max(now, appointment.status_at) if appointment.status_at else now
    return replace(
        appointment,
        status=target,
        status_at=moment,
        version=appointment.version + 1,
        cancellation=None,
        marked_by=None,
    )


def _check(schedule: Schedule) -> None:
    if schedule.ends_at is not None and schedule.ends_at <= schedule.starts_at:
        raise InvalidSchedule
