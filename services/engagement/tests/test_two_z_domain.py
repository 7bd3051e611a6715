"""The 2Z rule as pure decisions."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engagement.tasks.domain import EXPIRED, NOT_NEEDED, Outcome, Reason
from engagement.two_z.domain import (
    Check,
    Facts,
    LastVisit,
    PreviousTask,
    State,
    check,
    deadline,
    first_moment_of_today,
)

MOSCOW = "Europe/Moscow"
DONE = datetime(2026, 3, 2, 13, tzinfo=UTC)
DUE = datetime(2026, 3, 2, 21, tzinfo=UTC)
VISIT = LastVisit(uuid.UUID(int=7), DONE, "treated")
FACTS = Facts(
    clinic_id=uuid.UUID(int=1),
    patient_id=uuid.UUID(int=2),
    is_erased=False,
    time_zone=MOSCOW,
    visit=VISIT,
)
HOUR = timedelta(hours=1)
LOST = uuid.UUID(int=8)
ZONES = [
    "Europe/Moscow",
    "America/New_York",
    "Africa/Cairo",
    "America/Havana",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "UTC",
]
moments = st.integers(946_684_800, 2_208_988_800).map(lambda n: datetime.fromtimestamp(n, UTC))
hours = st.integers(-24 * 40, 24 * 40).map(lambda n: DUE + timedelta(hours=n))


def judge(facts: Facts, at: datetime, *earlier: datetime) -> Check:
    """Judges a patient whose last visit, and whose earlier visits, were completed then."""
    if facts.visit is None or facts.time_zone is None:
        return check(facts, at)
    completed = sorted([facts.visit.completed_at, *earlier])
    today = first_moment_of_today(at, facts.time_zone)
    due = [moment for moment in completed if moment < today]
    pending = [moment for moment in completed if moment >= today]
    return check(
        replace(
            facts,
            due_completed_at=due[-1] if due else None,
            pending_completed_at=pending[0] if pending else None,
        ),
        at,
    )


def test_deadline_is_the_end_of_the_clinics_day() -> None:
    assert deadline(DONE, MOSCOW) == DUE
    assert deadline(DUE - timedelta(microseconds=1), MOSCOW) == DUE
    assert deadline(DUE, MOSCOW) == DUE + timedelta(days=1)


@pytest.mark.parametrize(
    ("zone", "completed_at", "expected"),
    [
        # Clocks jump from midnight to one: the day after begins at one.
        ("Africa/Cairo", "2024-04-25T15:00:00+02:00", "2024-04-26T01:00:00+03:00"),
        # Midnight comes twice: the first one ends the day.
        ("America/Havana", "2024-11-02T15:00:00-04:00", "2024-11-03T00:00:00-04:00"),
        # A day of 23 hours and one of 25.
        ("America/New_York", "2026-03-08T00:30:00-05:00", "2026-03-09T00:00:00-04:00"),
        ("America/New_York", "2026-11-01T00:30:00-04:00", "2026-11-02T00:00:00-05:00"),
    ],
)
def test_deadline_when_clocks_change(zone: str, completed_at: str, expected: str) -> None:
    assert deadline(datetime.fromisoformat(completed_at), zone) == datetime.fromisoformat(expected)


@given(
    moments,
    moments,
    st.sampled_from(ZONES),
)
def test_deadline_has_passed_exactly_for_visits_before_today(
    completed_at: datetime, now: datetime, zone: str
) -> None:
    assert (deadline(completed_at, zone) <= now) == (
        completed_at < first_moment_of_today(now, zone)
    )


@given(
    moments,
    st.sampled_from(ZONES),
)
def test_deadline_begins_the_next_local_day(completed_at: datetime, zone: str) -> None:
    here = ZoneInfo(zone)
    at = deadline(completed_at, zone)
    assert completed_at < at <= completed_at + timedelta(hours=25)
    day = completed_at.astimezone(here).date()
    assert at.astimezone(here).date() == day + timedelta(days=1)
    assert (at - timedelta(microseconds=1)).astimezone(here).date() == day


def test_before_the_deadline_nothing_is_owed() -> None:
    found = judge(FACTS, DUE - timedelta(seconds=1))
    assert (found.state, found.next_at, found.open) == (None, DUE, None)


def test_at_the_deadline_a_task_is_opened() -> None:
    found = judge(FACTS, DUE)
    assert found.state is State.VIOLATION
    assert found.open is not None
    assert found.open.reason == Reason.NO_NEXT_APPOINTMENT
    assert (found.open.subject_id, found.open.due_at) == (VISIT.visit_id, DUE)
    assert found.next_at == found.open.expires_at


def test_first_match_of_released_booked_task() -> None:
    everything = replace(
        FACTS,
        released_at=DONE,
        booked_until=DUE + timedelta(days=1),
        task_expires_at=DUE + timedelta(days=1),
    )
    assert judge(everything, DUE).state is State.RELEASED
    assert judge(replace(everything, released_at=None), DUE).state is State.BOOKED
    only_task = replace(everything, released_at=None, booked_until=None)
    assert judge(only_task, DUE).state is State.TASK_OPEN


def test_release_before_the_visit_covers_nothing() -> None:
    stale = replace(FACTS, released_at=DONE - timedelta(seconds=1))
    assert judge(stale, DUE).state is State.VIOLATION


def test_erased_patient_is_released_and_loses_every_task() -> None:
    found = judge(replace(FACTS, is_erased=True, visit=None, time_zone=None), DUE)
    assert (found.closes_as, found.closes_all) == (Outcome.RELEASED, True)
    assert found.open is None


def test_booking_closes_tasks_even_of_a_patient_out_of_scope() -> None:
    booked = replace(FACTS, visit=None, booked_until=DUE + HOUR)
    assert judge(booked, DUE).closes_as is Outcome.BOOKED


def test_booking_counts_until_its_moment() -> None:
    booked = replace(FACTS, booked_until=DUE + HOUR)
    assert judge(booked, DUE + HOUR - timedelta(seconds=1)).state is State.BOOKED
    assert judge(booked, DUE + HOUR).state is State.VIOLATION
    assert judge(booked, DUE).next_at == DUE + HOUR


def test_patient_who_came_back_today_has_a_task_that_is_due_tonight() -> None:
    today = LastVisit(uuid.UUID(int=9), DUE + 10 * HOUR)
    tonight = DUE + timedelta(days=1)
    found = judge(replace(FACTS, visit=today), DUE + 11 * HOUR, DONE)
    assert (found.state, found.next_at) == (State.VIOLATION, tonight)
    assert found.open is not None
    assert (found.open.subject_id, found.open.due_at) == (today.visit_id, tonight)


def test_release_covers_the_visits_until_it_and_no_later_one() -> None:
    today = LastVisit(uuid.UUID(int=9), DUE + 10 * HOUR)
    facts = replace(FACTS, visit=today, released_at=DONE + HOUR)
    found = judge(facts, DUE + 11 * HOUR, DONE)
    assert (found.state, found.next_at) == (State.RELEASED, DUE + timedelta(days=1))
    assert judge(facts, DUE + timedelta(days=1), DONE).state is State.VIOLATION


def test_task_of_a_patient_without_a_visit_is_not_needed() -> None:
    assert judge(replace(FACTS, visit=None), DUE).closes_as == NOT_NEEDED


def test_unknown_clinic_is_asked_again_later() -> None:
    found = judge(replace(FACTS, time_zone=None), DUE)
    assert found.state is None
    assert found.next_at is not None
    assert found.next_at > DUE


@pytest.mark.parametrize(
    ("facts", "reason", "subject_id"),
    [
        (
            replace(FACTS, lost_appointment_id=LOST, lost_status="no_show"),
            Reason.NO_SHOW,
            LOST,
        ),
        (
            replace(FACTS, lost_appointment_id=LOST, lost_status="cancelled"),
            Reason.CANCELLED,
            LOST,
        ),
        (
            replace(FACTS, visit=replace(VISIT, outcome="referred_out")),
            Reason.REFERRED_OUT,
            VISIT.visit_id,
        ),
    ],
)
def test_reason_says_why_there_is_no_next_appointment(
    facts: Facts, reason: Reason, subject_id: uuid.UUID
) -> None:
    task = judge(facts, DUE).open
    assert task is not None
    assert (task.reason, task.subject_id) == (reason, subject_id)


def test_acute_referral_is_due_sooner_and_comes_first() -> None:
    calm = judge(replace(FACTS, visit=replace(VISIT, outcome="referred_out")), DUE).open
    acute_visit = replace(VISIT, outcome="referred_out", referral_urgency="acute")
    acute = judge(replace(FACTS, visit=acute_visit), DUE).open
    assert calm is not None
    assert acute is not None
    assert acute.due_at < calm.due_at
    assert acute.priority > calm.priority
    # A call after an ordinary one asks how it went: not before. An acute one cannot begin too soon.
    assert (calm.not_before, acute.not_before) == (calm.due_at, DUE)
    noted = replace(FACTS, visit=acute_visit, previous=previous("not_reached"), task_count=1)
    again = judge(noted, DUE + timedelta(days=2)).open
    assert again is not None
    assert again.not_before == again.due_at == DUE + timedelta(days=5)


def previous(outcome: str | None, escalation: int = 0) -> PreviousTask:
    closed_at = None if outcome is None else DUE + timedelta(days=2)
    return PreviousTask(outcome, closed_at, DUE + timedelta(days=30), escalation)


@pytest.mark.parametrize(
    ("outcome", "days"),
    [("reached_no_booking", 14), ("declined", 90), ("not_reached", 3), ("booked", 0)],
)
def test_after_a_close_without_booking_the_next_contact_waits(outcome: str, days: int) -> None:
    at = DUE + timedelta(days=2)
    task = judge(replace(FACTS, previous=previous(outcome), task_count=1), at).open
    assert task is not None
    assert task.due_at == at + timedelta(days=days)
    assert task.occurrence == 1


def test_wrong_number_asks_for_another_way_to_reach() -> None:
    task = judge(replace(FACTS, previous=previous("wrong_number")), DUE + timedelta(days=2)).open
    assert task is not None
    assert task.reason == Reason.UNREACHABLE


@pytest.mark.parametrize("outcome", [None, EXPIRED])
def test_task_out_of_time_is_followed_by_an_escalated_one(outcome: str | None) -> None:
    at = DUE + timedelta(days=30)
    facts = replace(FACTS, previous=previous(outcome, 1), task_expires_at=None)
    task = judge(facts, at).open
    assert task is not None
    assert (task.escalation, task.due_at) == (2, at)


def test_contact_before_the_visit_does_not_delay_the_next() -> None:
    old = PreviousTask("declined", DONE - timedelta(days=1), DONE, 3)
    task = judge(replace(FACTS, previous=old), DUE).open
    assert task is not None
    assert (task.due_at, task.escalation) == (DUE, 0)


any_facts = st.builds(
    Facts,
    clinic_id=st.just(FACTS.clinic_id),
    patient_id=st.just(FACTS.patient_id),
    is_erased=st.booleans(),
    time_zone=st.sampled_from(ZONES),
    visit=st.none() | st.builds(LastVisit, st.just(VISIT.visit_id), hours),
    booked_until=st.none() | hours,
    lost_appointment_id=st.none() | st.just(LOST),
    lost_status=st.sampled_from(["cancelled", "no_show"]),
    released_at=st.none() | hours,
    task_expires_at=st.none() | hours,
)


@given(any_facts, st.lists(st.timedeltas(timedelta(), timedelta(days=20))), hours, st.integers())
def test_nobody_breaks_the_rule_between_two_checks(
    facts: Facts, before: list[timedelta], at: datetime, minutes: int
) -> None:
    """What a check opens holds, and until the next check time alone breaks nothing."""
    earlier = [facts.visit.completed_at - ago for ago in before] if facts.visit else []
    found = judge(facts, at, *earlier)
    if found.open is not None:
        facts = replace(facts, task_expires_at=found.open.expires_at)
    later = at + timedelta(minutes=minutes % (24 * 60 * 80))
    if found.next_at is None or later < found.next_at:
        assert judge(facts, later, *earlier).state is not State.VIOLATION
