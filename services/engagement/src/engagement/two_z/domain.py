"""The 2Z rule as pure decisions.

A visit's deadline is the end of the clinic's local day on which it was completed. A patient is in
scope from the first deadline of a visit at or after the clinic's `live_from`, and must then always
be, in this order, released, booked or have an open task: being in the clinic today is none of the
three, so whoever leaves without a next appointment has a task at once, due at the end of the day,
when reception has had its time to book.

A release covers the visits completed up to it; a visit completed later starts a new obligation at
its deadline, whatever the release said. An erased patient is released for ever.

An appointment counts as booked until it is over: until its end and `UNATTENDED_AFTER`, unless an
event says earlier what became of it (ADR 0017).
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from engagement.messages.windows import local_day, zone_of
from engagement.tasks.domain import ACUTE, EXPIRED, NOT_NEEDED, NewTask, Outcome, Reason

DEFINITION_VERSION = "1"
DEADLINE_RULE = "end_of_clinic_day"

UNATTENDED_AFTER = timedelta(hours=1)
"""How long past its end an appointment without an outcome still counts as booked.

Booking's timer says after half an hour that it was missed: its word is to come first.
"""
ASSUMED_DURATION = timedelta(minutes=30)
"""Stands for the length of an appointment whose end nobody told us; as in booking."""
LONGEST_APPOINTMENT = timedelta(hours=12)
"""A mistyped end must not hold a patient as booked for ever."""

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


BAR_EVERYTHING = frozenset({ReleaseReason.DIED, ReleaseReason.OPTED_OUT})
"""Releases after which nothing is said of an appointment either (ADR 0053)."""


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
        due_completed_at: Completion of the last such visit whose deadline has passed.
        pending_completed_at: Completion of the first such visit whose deadline has not passed.
        booked_until: When the last of the appointments that are neither over nor lost stops to
            count.
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
    due_completed_at: datetime | None = None
    pending_completed_at: datetime | None = None
    booked_until: datetime | None = None
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
    closes_as: str | None = None
    closes_all: bool = False


def deadline(completed_at: datetime, time_zone: str) -> datetime:
    """End of the clinic's local day on which a visit was completed, in UTC, exclusive."""
    return local_day(completed_at, zone_of(time_zone))[1]


def first_moment_of_today(now: datetime, time_zone: str) -> datetime:
    """Deadlines of all visits completed before this moment, and of no other, have passed."""
    return local_day(now, zone_of(time_zone))[0]


def check(facts: Facts, at: datetime) -> Check:
    """Judges one patient at a moment and says what mends a broken state."""
    if facts.is_erased:
        return Check(State.RELEASED, None, closes_as=Outcome.RELEASED, closes_all=True)
    if facts.time_zone is None:
        return Check(None, at + CLINIC_UNKNOWN_RETRY)
    booked_until = facts.booked_until
    if booked_until is not None and booked_until <= at:
        booked_until = None
    if facts.visit is None:
        # What made tasks about the next appointment is gone: the visit was another patient's, or
        # has become history.
        return Check(None, None, closes_as=Outcome.BOOKED if booked_until else NOT_NEEDED)
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
    pending_at = None
    if facts.pending_completed_at is not None:
        pending_at = deadline(facts.pending_completed_at, time_zone)
    released_at, due = facts.released_at, facts.due_completed_at
    closes_as = Outcome.BOOKED if booked_until is not None else None
    if released_at is not None and released_at >= visit.completed_at:
        closes_as = Outcome.RELEASED
    if due is None:
        return Check(None, pending_at, closes_as=closes_as)
    if released_at is not None and released_at >= due:
        return Check(State.RELEASED, pending_at, closes_as=closes_as)
    if booked_until is not None:
        return Check(State.BOOKED, _first(booked_until, pending_at), closes_as=closes_as)
    if facts.task_expires_at is not None and at < facts.task_expires_at:
        return Check(State.TASK_OPEN, _first(facts.task_expires_at, pending_at))
    task = _mending_task(facts, visit, at, pending_at)
    return Check(State.VIOLATION, _first(task.expires_at, pending_at), open=task)


def _first(at: datetime, other: datetime | None) -> datetime:
    return at if other is None else min(at, other)


def _mending_task(
    facts: Facts, visit: LastVisit, at: datetime, pending_at: datetime | None
) -> NewTask:
    reason, subject_id, due_at = _cause(facts, visit, at)
    is_acute = reason is Reason.REFERRED_OUT and visit.referral_urgency == ACUTE
    not_before = at if is_acute else due_at
    if pending_at is not None:
        # The patient was here today: reception books until the end of the day, then it is a call.
        not_before = max(not_before, pending_at)
    previous, escalation = facts.previous, 0
    if previous is not None and (previous.closed_at or at) >= visit.completed_at:
        # Somebody has been in touch since the visit: what came of it says when to be in touch
        # again.
        if previous.is_expired(at):
            due_at = not_before = at
            escalation = previous.escalation + 1
        elif previous.outcome == Outcome.WRONG_NUMBER:
            reason = Reason.UNREACHABLE
        wait = NEXT_CONTACT_AFTER.get(previous.outcome or "", timedelta())
        not_before = max(not_before, at + wait)
    return NewTask(
        clinic_id=facts.clinic_id,
        patient_id=facts.patient_id,
        reason=reason,
        subject_id=subject_id,
        due_at=max(due_at, not_before),
        opened_at=at,
        not_before=not_before,
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
