"""The 2Z rule as pure decisions.

For every patient the **last** completed visit at or after the clinic's `live_from` decides: coming back
answers what the visit before it had left open. Its deadline is the end of the clinic's local day on which
it was completed. From then on the patient must be, in this order, released, booked or have an open task.

A release covers the visits completed up to it; a visit completed later starts a new obligation, whatever
the release said. An erased patient is released for ever.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

from engagement.tasks.domain import ACUTE, EXPIRED, NewTask, Outcome, Reason

DEFINITION_VERSION = "1"
DEADLINE_RULE = "end_of_clinic_day"

UNATTENDED_AFTER = timedelta(hours=4)
"""How long past its start an appointment without an outcome still counts as booked."""

CLINIC_UNKNOWN_RETRY = timedelta(hours=1)
"""A visit may come before its clinic is registered; `clinic.registered` brings the check forward."""

ACTIVE_STATUSES = ("booked", "confirmed", "arrived", "in_progress")
LOST_STATUSES = ("cancelled", "no_show")

REFERRED_OUT_DUE = timedelta(days=7)
REFERRED_OUT_ACUTE_DUE = timedelta(days=1)

NEXT_CONTACT_AFTER = {
    Outcome.REACHED_NO_BOOKING: timedelta(days=14),
    Outcome.DECLINED: timedelta(days=90),
    Outcome.NOT_REACHED: timedelta(days=3),
    Outcome.WRONG_NUMBER: timedelta(days=1),
}
"""When a patient whose task ended without a booking is due again. Nothing owed any more is a release."""


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
class PreviousTask:
    """The patient's latest task, whatever its reason: somebody spoke to the patient, or nobody did."""

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
        visit_id: The last completed visit in scope of the clinic's `live_from`, None without one.
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
    visit_id: uuid.UUID | None = None
    completed_at: datetime | None = None
    visit_outcome: str | None = None
    referral_urgency: str | None = None
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
    """The first moment of a local day, in UTC: past a gap at midnight, the first of two midnights."""
    midnight = datetime.combine(day, time.min, tzinfo=zone)
    # `fold=0` in a gap uses the offset before it, which is the moment the clock jumped forward.
    return midnight.astimezone(UTC)


def deadline(completed_at: datetime, time_zone: str) -> datetime:
    """End of the clinic's local day on which a visit was completed, in UTC; itself already past it."""
    zone = _zone(time_zone)
    return start_of_day(completed_at.astimezone(zone).date() + timedelta(days=1), zone)


def first_moment_of_today(now: datetime, time_zone: str) -> datetime:
    """Deadlines of all visits completed before this moment, and of no other, have passed."""
    zone = _zone(time_zone)
    return start_of_day(now.astimezone(zone).date(), zone)


def check(facts: Facts, at: datetime) -> Check:
    """Judges one patient at a moment and says what mends a broken state."""
    if facts.time_zone is None and not facts.is_erased:
        return Check(None, at + CLINIC_UNKNOWN_RETRY)
    due_at = (
        deadline(facts.completed_at, facts.time_zone)
        if facts.completed_at is not None and facts.time_zone is not None
        else None
    )
    is_due = due_at is not None and due_at <= at
    if facts.is_erased:
        state = State.RELEASED if is_due else None
        return Check(state, None, closes_as=Outcome.RELEASED, closes_all=True)
    unattended_at = (
        facts.booked_starts_at + UNATTENDED_AFTER if facts.booked_starts_at is not None else None
    )
    is_booked = unattended_at is not None and at < unattended_at
    closes_as = Outcome.BOOKED if is_booked else None
    if due_at is None or facts.completed_at is None:
        return Check(None, None, closes_as=closes_as)
    if facts.released_at is not None and facts.released_at >= facts.completed_at:
        return Check(State.RELEASED if is_due else None, None, closes_as=Outcome.RELEASED)
    if unattended_at is not None and is_booked:
        state = State.BOOKED if is_due else None
        return Check(state, max(due_at, unattended_at), closes_as=closes_as)
    if not is_due:
        return Check(None, due_at)
    if facts.task_expires_at is not None and at < facts.task_expires_at:
        return Check(State.TASK_OPEN, facts.task_expires_at)
    task = _mending_task(facts, facts.completed_at, at)
    return Check(State.VIOLATION, task.expires_at, open=task)


def next_checks(
    visits: Sequence[tuple[uuid.UUID, uuid.UUID, datetime]], zones: dict[uuid.UUID, str]
) -> list[tuple[uuid.UUID, uuid.UUID, datetime]]:
    """When patients are to be checked after visits: at the deadline, at once where the zone is unknown."""
    return [
        (
            clinic_id,
            patient_id,
            deadline(completed_at, zones[clinic_id]) if clinic_id in zones else completed_at,
        )
        for clinic_id, patient_id, completed_at in visits
    ]


def _mending_task(facts: Facts, completed_at: datetime, at: datetime) -> NewTask:
    reason, subject = _reason_and_subject(facts)
    previous = facts.previous
    is_follow_on = previous is not None and (previous.closed_at or at) >= completed_at
    due_at, escalation = at, 0
    if previous is not None and is_follow_on:
        if previous.is_expired(at):
            escalation = previous.escalation + 1
        elif previous.outcome in set(Outcome):
            due_at = at + NEXT_CONTACT_AFTER.get(Outcome(previous.outcome), timedelta())
            if previous.outcome == Outcome.WRONG_NUMBER:
                reason = Reason.UNREACHABLE
    elif reason is Reason.REFERRED_OUT:
        is_acute = facts.referral_urgency == ACUTE
        due_at = at + (REFERRED_OUT_ACUTE_DUE if is_acute else REFERRED_OUT_DUE)
    return NewTask(
        clinic_id=facts.clinic_id,
        patient_id=facts.patient_id,
        reason=reason,
        subject_id=str(subject),
        due_at=due_at,
        opened_at=at,
        occurrence=facts.task_count,
        escalation=escalation,
        urgency=facts.referral_urgency if reason is Reason.REFERRED_OUT else None,
    )


def _reason_and_subject(facts: Facts) -> tuple[Reason, uuid.UUID | None]:
    if facts.lost_appointment_id is not None:
        is_no_show = facts.lost_status == Reason.NO_SHOW
        return (Reason.NO_SHOW if is_no_show else Reason.CANCELLED), facts.lost_appointment_id
    if facts.visit_outcome == Reason.REFERRED_OUT:
        return Reason.REFERRED_OUT, facts.visit_id
    return Reason.NO_NEXT_APPOINTMENT, facts.visit_id


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
