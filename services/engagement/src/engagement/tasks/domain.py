"""What a contact task is and what may be done with it.

Pure values and decisions: a function takes a task and the moment and returns the new task, or
raises a named error. The invariant: an open task can be put off at most `SNOOZE_LIMIT` times and
never past its age limit, and it ends only with an outcome that says what came of the contact.
"""

import uuid
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from revisit_chassis.problem import DomainError

AGE_LIMIT = timedelta(days=30)
SNOOZE_LIMIT = 3
DEFAULT_CALL_BACK = timedelta(days=1)


class Reason(StrEnum):
    """Why the patient is to be contacted. An open vocabulary: these are the documented values."""

    NO_NEXT_APPOINTMENT = "no_next_appointment"
    NO_SHOW = "no_show"
    CANCELLED = "cancelled"
    UNREACHABLE = "unreachable"
    UNCERTAIN_DELIVERY = "uncertain_delivery"
    LOW_SCORE = "low_score"
    REFERRED_OUT = "referred_out"


CLOSED_BY_BOOKING = frozenset({Reason.NO_NEXT_APPOINTMENT, Reason.NO_SHOW, Reason.CANCELLED})
"""Tasks that exist because there was no next appointment; a patient has one open at most."""

ACUTE = "acute"
_URGENT_PRIORITY = 90
_ESCALATION_STEP = 10
_PRIORITY = {
    Reason.LOW_SCORE: 80,
    Reason.UNCERTAIN_DELIVERY: 60,
    Reason.REFERRED_OUT: 60,
    Reason.NO_SHOW: 50,
    Reason.CANCELLED: 50,
    Reason.NO_NEXT_APPOINTMENT: 40,
    Reason.UNREACHABLE: 30,
}


class Outcome(StrEnum):
    """What came of a contact, as a person states it."""

    BOOKED = "booked"
    REACHED_NO_BOOKING = "reached_no_booking"
    CALL_BACK = "call_back"
    DECLINED = "declined"
    NOT_REACHED = "not_reached"
    WRONG_NUMBER = "wrong_number"
    RELEASED = "released"


EXPIRED = "expired"
"""Outcome of a task that nobody finished within its age limit; only the platform gives it."""
NOT_NEEDED = "not_needed"
"""Outcome of a task whose cause turned out to be a mistake; only the platform gives it."""


class AttemptResult(StrEnum):
    """How one attempt to reach the patient ended."""

    REACHED = "reached"
    NO_ANSWER = "no_answer"
    BUSY = "busy"
    VOICEMAIL = "voicemail"
    CALL_BACK = "call_back"
    WRONG_NUMBER = "wrong_number"


class TaskNotFoundError(DomainError):
    """There is no such task."""

    slug = "task-not-found"


class TaskClosedError(DomainError):
    """The task is closed already."""

    slug = "task-closed"


class SnoozeLimitReachedError(DomainError):
    """The task was put off three times; it needs an outcome now."""

    slug = "snooze-limit-reached"


class InvalidSnoozeError(DomainError):
    """A task can be put off to a moment after now and before its age limit only."""

    slug = "invalid-snooze"


class ReleaseReasonMissingError(DomainError):
    """The outcome `released` needs a release reason, and no other outcome takes one."""

    slug = "release-reason-missing"


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be opened.

    Args:
        subject_id: What it is about: an appointment, a visit, a message, a survey.
        due_at: By when the first contact is to be made.
        not_before: From when it may be made; when left out it is made when it is due.
        opened_at: When it came to be; the caller's `now` when left out.
        occurrence: Tells apart tasks about the same subject for the same reason.
        escalation: How many tasks before this one ran out of time.
        urgency: `acute` puts it before everything else.
    """

    clinic_id: uuid.UUID
    patient_id: uuid.UUID
    reason: str
    subject_id: uuid.UUID
    due_at: datetime
    opened_at: datetime | None = None
    not_before: datetime | None = None
    occurrence: int = 0
    escalation: int = 0
    urgency: str | None = None

    @property
    def task_id(self) -> uuid.UUID:
        """Made from the business key, so that opening again opens nothing.

        The patient is part of it: a correction may give the subject to another one.
        """
        name = f"task:{self.patient_id}:{self.reason}:{self.subject_id}:{self.occurrence}"
        return uuid.uuid5(self.clinic_id, name)

    @property
    def expires_at(self) -> datetime:
        """From here on the task no longer counts as contact owed and arranged."""
        return self.due_at + AGE_LIMIT

    @property
    def priority(self) -> int:
        """Greater comes first."""
        base = _URGENT_PRIORITY if self.urgency == ACUTE else _priority_of(self.reason)
        return base + _ESCALATION_STEP * self.escalation


@dataclass(frozen=True, slots=True)
class Task:
    """A contact task as it stands."""

    clinic_id: uuid.UUID
    task_id: uuid.UUID
    patient_id: uuid.UUID
    reason: str
    subject_id: uuid.UUID
    escalation: int
    opened_at: datetime
    due_at: datetime
    next_at: datetime
    expires_at: datetime
    attempts: int
    snoozes: int
    minutes: int
    outcome: str | None
    closed_at: datetime | None
    closed_by: str | None
    version: int

    @property
    def is_open(self) -> bool:
        """Whether nobody stated an outcome yet."""
        return self.outcome is None


def attempted(task: Task, minutes: int, next_at: datetime | None, now: datetime) -> Task:
    """The task after one more attempt, put off when a next time is given.

    Raises:
        TaskClosedError: The task is closed.
        SnoozeLimitReachedError: It was put off three times before.
        InvalidSnoozeError: The next time is not between now and the age limit.
    """
    if not task.is_open:
        raise TaskClosedError
    done = replace(
        task, attempts=task.attempts + 1, minutes=task.minutes + minutes, version=task.version + 1
    )
    return done if next_at is None else _snoozed(done, next_at, now)


def finished(
    task: Task,
    outcome: Outcome,
    *,
    by: str,
    minutes: int,
    call_back_at: datetime | None,
    now: datetime,
) -> Task:
    """The task after a person stated its outcome.

    `call_back` ends nothing: the patient is owed another call, so the task is put off, within the
    same limits as any other delay. Every other outcome closes it. Stating the outcome a closed task
    already has changes nothing.

    Raises:
        TaskClosedError: The task is closed with another outcome.
        SnoozeLimitReachedError: A call back was agreed three times before.
        InvalidSnoozeError: The call back is not between now and the age limit.
    """
    if not task.is_open:
        if task.outcome == outcome:
            return task
        raise TaskClosedError
    done = replace(task, minutes=task.minutes + minutes, version=task.version + 1)
    if outcome is Outcome.CALL_BACK:
        return _snoozed(done, call_back_at or now + DEFAULT_CALL_BACK, now)
    return replace(done, outcome=outcome.value, closed_at=now, closed_by=by)


def _snoozed(task: Task, until: datetime, now: datetime) -> Task:
    if task.snoozes >= SNOOZE_LIMIT:
        raise SnoozeLimitReachedError
    if not now < until < task.expires_at:
        raise InvalidSnoozeError
    return replace(task, next_at=until, snoozes=task.snoozes + 1)


def _priority_of(reason: str) -> int:
    return _PRIORITY.get(Reason(reason), 0) if reason in set(Reason) else 0
