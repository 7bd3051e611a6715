"""The 2Z rule as pure decisions.

For every patient the **last** completed visit at or after the clinic's `live_from` decides: coming
back answers what the visit before it had left open. Its deadline is the end of the clinic's local
day on which it was completed. From then on the patient must be, in this order, released, booked or
have an open task.

A release covers the visits completed up to it; a visit completed later starts a new obligation,
whatever the release said. An erased patient is released for ever.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from engagement.tasks.domain import ACUTE, EXPIRED, NewTask, Outcome, Reason

DEFINITION_VERSION = "1"
DEADLINE_RULE = "end_of_clinic_day"

UNATTENDED_AFTER = timedelta(hours=4)
"""How long past its start an appointment without an outcome still counts as booked."""

CLINIC_UNKNOWN_RETRY = timedelta(days=1)
"""A visit may come before its clinic; `clinic.registered` brings the check forward."""

ACTIVE_STATUSES = ("booked", "confirmed", "arrived", "in_progress")
LOST_STATUSES = ("cancelled", "no_show")

REFERRED_OUT_DUE = timedelta(days=7)
REFERRED_OUT_ACUTE_DUE = timedelta(days=1)

NEXT_CONTACT_AFTER: Mapping[str, timedelta] = {
    Outcome.REACHED_NO_BOOKING: timedelta(days=14),
    Outcome.DECLINED: timedelta(days=90),
    Outcome.NOT_REACHED: timedelta(days=3),
    Outcome.WRONG_NUMBER: timedelta(days=1),
}
"""When a patient whose task ended without a booking is due again; owing nothing is a release."""


class State(StrEnum):
    """Where a patient in scope stands; the order is the order of the first match."""

    RELEASED = "released"
    BOOKED = "booked"
    TASK_OPEN = "task_open"
    VIOLATION = "violation"


class ReleaseReason(StrEnum):
    """Why no further contact is owed."""

    DIED = "died"
    MOVED_AWAY = "moved_away"
    OPTED_OUT = "opted_out"
    TREATMENT_ENDED = "treatment_ended"
    CARE_TRANSFERRED = "care_transferred"


@dataclass(frozen=True, slots=True)
class LastVisit:
    """The visit that decides."""

    visit_id: uuid.UUID
    completed_at: datetime
    outcome: str | None = None
    referral_urgency: str | None = None


@dataclass(frozen=True, slots=True)
class PreviousTask:
    """The patient's latest task, whatever its reason."""

    outcome: str | None
    closed_at: datetime | None
    expires_at: datetime
    escalation: int

    def is_expired(self, at: datetime) -> bool:
        """Whether it ran out of time, marked so already or not."""
        return self.outcome == EXPIRED or (self.outcome is None and self.expires_at <= at)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that decides about one patient, read from the projections in one statement.

    Args:
        time_zone: The clinic's; None while the clinic is unknown.
        visit: The last completed visit at or after the clinic's `live_from`.
        booked_starts_at: Latest start of an appointment that is neither over nor lost.
        lost_appointment_id: Latest appointment after the visit that was cancelled or missed.
        released_at: The latest release.
        task_expires_at: Latest age limit of an open task.
        task_count: All tasks the patient ever had; numbers the next one.
    """

    clinic_id: uuid.UUID
    patient_id: uuid.UUID
    is_erased: bool
    time_zone: str | None
    visit: LastVisit | None = None
    booked_starts_at: datetime | None = None
    lost_appointment_id: uuid.UUID | None = None
    lost_status: str | None = None
    released_at: datetime | None = None
    task_expires_at: datetime | None = None
    task_count: int = 0
    previous: PreviousTask | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """What a check of one patient says is to be done.

    Args:
        state: None when the patient is not in scope (yet).
        next_at: When time alone may change the state; None when only a new fact can.
        open: A task that mends a broken state.
        closes_as: Outcome for the open tasks that have lost their reason.
        closes_all: Whether that is every open task, not only those about the next appointment.
    """

    state: State | None
    next_at: datetime | None
    open: NewTask | None = None
    closes_as: Outcome | None = None
    closes_all: bool = False


def start_of_day(day: date, zone: ZoneInfo) -> datetime:
    """The first moment of a local day, in UTC: after a gap, the first of two midnights."""
    midnight = datetime.combine(day, time.min, tzinfo=zone)
    # `fold=0` in a gap uses the offset before it, which is the moment the clock jumped forward.
    return midnight.astimezone(UTC)


def deadline(completed_at: datetime, time_zone: str) -> datetime:
    """End of the clinic's local day on which a visit was completed, in UTC, exclusive."""
    zone = _zone(time_zone)
    return start_of_day(completed_at.astimezone(zone).date() + timedelta(days=1), zone)


def first_moment_of_today(now: datetime, time_zone: str) -> datetime:
    """Deadlines of all visits completed before this moment, and of no other, have passed."""
    zone = _zone(time_zone)
    return start_of_day(now.astimezone(zone).date(), zone)


def check(facts: Facts, at: datetime) -> Check:
    """Judges one patient at a moment and says what mends a broken state."""
    if facts.is_erased:
        return Check(State.RELEASED, None, closes_as=Outcome.RELEASED, closes_all=True)
    if facts.time_zone is None:
        return Check(None, at + CLINIC_UNKNOWN_RETRY)
    starts_at = facts.booked_starts_at
    unattended_at = None if starts_at is None else starts_at + UNATTENDED_AFTER
    booked_until = None if unattended_at is None or unattended_at <= at else unattended_at
    if facts.visit is None:
        return Check(None, None, closes_as=Outcome.BOOKED if booked_until else None)
    return _check_visit(facts, facts.visit, facts.time_zone, booked_until, at)


def next_checks(
    visits: Sequence[tuple[uuid.UUID, uuid.UUID, datetime]], zones: Mapping[uuid.UUID, str]
) -> list[tuple[uuid.UUID, uuid.UUID, datetime]]:
    """When to check patients after visits: at the deadline, at once where no zone is known."""
    return [
        (
            clinic_id,
            patient_id,
            deadline(completed_at, zones[clinic_id]) if clinic_id in zones else completed_at,
        )
        for clinic_id, patient_id, completed_at in visits
    ]


def _check_visit(
    facts: Facts, visit: LastVisit, time_zone: str, booked_until: datetime | None, at: datetime
) -> Check:
    due_at = deadline(visit.completed_at, time_zone)
    is_due = due_at <= at
    if facts.released_at is not None and facts.released_at >= visit.completed_at:
        return Check(State.RELEASED if is_due else None, None, closes_as=Outcome.RELEASED)
    if booked_until is not None:
        next_at = max(due_at, booked_until)
        return Check(State.BOOKED if is_due else None, next_at, closes_as=Outcome.BOOKED)
    if not is_due:
        return Check(None, due_at)
    if facts.task_expires_at is not None and at < facts.task_expires_at:
        return Check(State.TASK_OPEN, facts.task_expires_at)
    task = _mending_task(facts, visit, at)
    return Check(State.VIOLATION, task.expires_at, open=task)


def _mending_task(facts: Facts, visit: LastVisit, at: datetime) -> NewTask:
    reason, subject_id, due_at = _cause(facts, visit, at)
    previous, escalation = facts.previous, 0
    if previous is not None and (previous.closed_at or at) >= visit.completed_at:
        # Somebody has been in touch since the visit: what came of it says when to be in touch
        # again.
        if previous.is_expired(at):
            due_at, escalation = at, previous.escalation + 1
        elif previous.outcome == Outcome.WRONG_NUMBER:
            reason = Reason.UNREACHABLE
        due_at = max(due_at, at + NEXT_CONTACT_AFTER.get(previous.outcome or "", timedelta()))
    return NewTask(
        clinic_id=facts.clinic_id,
        patient_id=facts.patient_id,
        reason=reason,
        subject_id=subject_id,
        due_at=due_at,
        opened_at=at,
        occurrence=facts.task_count,
        escalation=escalation,
        urgency=visit.referral_urgency if reason is Reason.REFERRED_OUT else None,
    )


def _cause(facts: Facts, visit: LastVisit, at: datetime) -> tuple[Reason, uuid.UUID, datetime]:
    """Why the patient has no next appointment, what that is about, when to be in touch."""
    if facts.lost_appointment_id is not None:
        is_no_show = facts.lost_status == Reason.NO_SHOW
        return Reason.NO_SHOW if is_no_show else Reason.CANCELLED, facts.lost_appointment_id, at
    if visit.outcome == Reason.REFERRED_OUT:
        is_acute = visit.referral_urgency == ACUTE
        due_at = at + (REFERRED_OUT_ACUTE_DUE if is_acute else REFERRED_OUT_DUE)
        return Reason.REFERRED_OUT, visit.visit_id, due_at
    return Reason.NO_NEXT_APPOINTMENT, visit.visit_id, at


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # One clinic's misspelt zone must not stop the repair of all the others.
        return ZoneInfo("UTC")
