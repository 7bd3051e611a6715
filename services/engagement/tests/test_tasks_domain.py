"""Contact tasks as pure values."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engagement.tasks.domain import (
    AGE_LIMIT,
    SNOOZE_LIMIT,
    InvalidSnoozeError,
    NewTask,
    Outcome,
    Reason,
    SnoozeLimitReachedError,
    Task,
    TaskClosedError,
    attempted,
    finished,
)
from engagement.tasks.scripts import SCRIPTS, script_for

NOW = datetime(2026, 3, 2, 6, tzinfo=UTC)
NEW = NewTask(
    clinic_id=uuid.UUID(int=1),
    patient_id=uuid.UUID(int=2),
    reason=Reason.NO_SHOW,
    subject_id=uuid.UUID(int=3),
    due_at=NOW,
)
TASK = Task(
    clinic_id=NEW.clinic_id,
    task_id=NEW.task_id,
    patient_id=NEW.patient_id,
    reason=NEW.reason,
    subject_id=NEW.subject_id,
    escalation=0,
    opened_at=NOW,
    due_at=NOW,
    next_at=NOW,
    expires_at=NOW + AGE_LIMIT,
    attempts=0,
    snoozes=0,
    minutes=0,
    outcome=None,
    closed_at=None,
    closed_by=None,
    version=1,
)
CLOSING = [outcome for outcome in Outcome if outcome is not Outcome.CALL_BACK]


def finish(task: Task, outcome: Outcome, call_back_at: datetime | None = None) -> Task:
    return finished(task, outcome, by="anna", minutes=4, call_back_at=call_back_at, now=NOW)


def test_task_id_follows_from_what_the_task_is_about() -> None:
    assert NEW.task_id == replace(NEW, due_at=NOW + timedelta(days=1)).task_id
    others = [
        replace(NEW, reason=Reason.CANCELLED),
        replace(NEW, subject_id=uuid.UUID(int=4)),
        replace(NEW, occurrence=1),
        replace(NEW, clinic_id=uuid.UUID(int=9)),
    ]
    assert len({NEW.task_id, *(other.task_id for other in others)}) == 5


def test_acute_and_escalated_tasks_come_first() -> None:
    acute = replace(NEW, reason=Reason.REFERRED_OUT, urgency="acute")
    assert acute.priority > replace(NEW, reason=Reason.LOW_SCORE).priority > NEW.priority
    assert replace(NEW, escalation=1).priority > NEW.priority
    assert replace(NEW, reason="something_newer").priority < NEW.priority


@pytest.mark.parametrize("outcome", CLOSING)
def test_finished_with_an_outcome_is_closed(outcome: Outcome) -> None:
    closed = finish(TASK, outcome)
    assert (closed.outcome, closed.closed_at, closed.closed_by) == (outcome, NOW, "anna")
    assert closed.minutes == 4
    assert closed.version == 2


def test_finished_again_with_the_same_outcome_changes_nothing() -> None:
    closed = finish(TASK, Outcome.DECLINED)
    assert finish(closed, Outcome.DECLINED) is closed


def test_finished_again_with_another_outcome_is_refused() -> None:
    with pytest.raises(TaskClosedError):
        finish(finish(TASK, Outcome.DECLINED), Outcome.BOOKED)


def test_attempted_when_closed_is_refused() -> None:
    with pytest.raises(TaskClosedError):
        attempted(finish(TASK, Outcome.DECLINED), 1, None, NOW)


def test_call_back_puts_the_task_off_and_leaves_it_open() -> None:
    later = finish(TASK, Outcome.CALL_BACK, NOW + timedelta(days=2))
    assert later.is_open
    assert later.next_at == NOW + timedelta(days=2)
    assert (later.due_at, later.expires_at) == (TASK.due_at, TASK.expires_at)


def test_call_back_without_a_time_means_tomorrow() -> None:
    assert finish(TASK, Outcome.CALL_BACK).next_at == NOW + timedelta(days=1)


@given(st.lists(st.integers(1, 24 * 29), min_size=SNOOZE_LIMIT + 1, max_size=8))
def test_put_off_more_often_than_the_limit_is_refused(hours: list[int]) -> None:
    task = TASK
    for number, delay in enumerate(hours):
        next_at = NOW + timedelta(hours=delay)
        if number < SNOOZE_LIMIT:
            task = attempted(task, 0, next_at, NOW)
        else:
            with pytest.raises(SnoozeLimitReachedError):
                attempted(task, 0, next_at, NOW)
    assert task.snoozes == SNOOZE_LIMIT


@pytest.mark.parametrize("next_at", [NOW, NOW - timedelta(hours=1), NOW + AGE_LIMIT])
def test_put_off_to_the_past_or_past_the_age_limit_is_refused(next_at: datetime) -> None:
    with pytest.raises(InvalidSnoozeError):
        attempted(TASK, 0, next_at, NOW)


def test_every_reason_has_a_script_in_both_languages() -> None:
    for reason in Reason:
        assert script_for(reason, "ru").language == "ru"
        assert script_for(reason, "en").language == "en"


def test_script_falls_back_from_the_patients_language_to_the_clinics() -> None:
    assert script_for(Reason.NO_SHOW, "de", "en").language == "en"
    assert script_for(Reason.NO_SHOW, None, "en-GB").language == "en"
    assert script_for("something_newer", "de", None).language == "ru"


def test_scripts_sell_nothing_and_press_nobody() -> None:
    pressure = (
        *("скидк", "акци", "выгод", "спеши", "только сегодня", "обязаны", "должны"),
        *("discount", "offer ends", "hurry", "last chance", "you must", "deal"),
    )
    for by_language in SCRIPTS.values():
        for script in by_language.values():
            text = f"{script.opening} {script.question} {script.closing}".lower()
            assert not [word for word in pressure if word in text]
