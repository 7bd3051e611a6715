"""The life cycle and its rules, without a database."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from booking.domain.appointment import (
    Appointment,
    CancelledBy,
    Schedule,
    Status,
    arrive,
    book,
    cancel,
    complete,
    confirm,
    miss,
    missed_at,
    no_show_due_at,
    reschedule,
    start,
)
from booking.domain.errors import IllegalMove, InvalidSchedule, InvalidVisit, NotStartedYet
from booking.domain.visit import (
    Charge,
    Findings,
    Kind,
    Outcome,
    Referral,
    visit_of,
)

MORNING = datetime(2026, 1, 12, 9, tzinfo=UTC)
START = datetime(2026, 1, 15, 12, 30, tzinfo=UTC)
SCHEDULE = Schedule(starts_at=START, ends_at=START + timedelta(minutes=45), booked_at=MORNING)


def booked() -> Appointment:
    return book(UUID(int=1), UUID(int=2), SCHEDULE, MORNING)


LEGAL = {
    Status.BOOKED: {Status.CONFIRMED, Status.BOOKED, Status.CANCELLED, Status.ARRIVED}
    | {Status.NO_SHOW},
    Status.CONFIRMED: {Status.BOOKED, Status.CANCELLED, Status.ARRIVED, Status.NO_SHOW},
    Status.ARRIVED: {Status.IN_PROGRESS, Status.CANCELLED},
    Status.IN_PROGRESS: {Status.COMPLETED},
    Status.NO_SHOW: {Status.ARRIVED},
    Status.COMPLETED: set(),
    Status.CANCELLED: set(),
}
COMMANDS: dict[str, Callable[[Appointment, datetime], Any]] = {
    "confirm": confirm,
    "cancel": lambda a, now: cancel(a, CancelledBy.PATIENT, "illness", now),
    "reschedule": lambda a, now: reschedule(a, now + timedelta(days=1), None, now),
    "arrive": arrive,
    "start": start,
    "complete": complete,
    "miss": lambda a, now: miss(a, "call_centre", now),
}


class LifeCycle(RuleBasedStateMachine):
    """Any commands in any order, at any pace, only ever make the moves of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.appointment = booked()
        self.previous = self.appointment
        self.now = MORNING

    @rule(command=st.sampled_from(sorted(COMMANDS)), minutes=st.integers(0, 6000))
    def send(self, command: str, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)
        self.previous = self.appointment
        try:
            self.appointment = COMMANDS[command](self.appointment, self.now)
        except (IllegalMove, NotStartedYet):
            assert self.appointment is self.previous
            return
        assert self.appointment.status in LEGAL[Status(str(self.previous.status))]
        assert self.appointment.version == self.previous.version + 1

    @invariant()
    def details_belong_to_the_state(self) -> None:
        status = self.appointment.status
        assert (self.appointment.cancellation is not None) == (status is Status.CANCELLED)
        assert (self.appointment.marked_by is not None) == (status is Status.NO_SHOW)

    @invariant()
    def time_never_runs_back(self) -> None:
        assert self.appointment.status_at is not None
        assert self.previous.status_at is not None
        assert self.appointment.status_at >= self.previous.status_at


TestLifeCycle = LifeCycle.TestCase


@pytest.mark.parametrize(
    ("before", "is_late"),
    [(timedelta(hours=24), False), (timedelta(hours=23, minutes=59), True), (timedelta(), True)],
)
def test_cancellation_when_close_to_the_start_then_is_late(
    before: timedelta, is_late: bool
) -> None:
    cancelled = cancel(booked(), CancelledBy.PATIENT, "illness", START - before)
    assert cancelled.cancellation is not None
    assert cancelled.cancellation.is_late is is_late


def test_no_show_when_before_the_start_then_refused() -> None:
    with pytest.raises(NotStartedYet):
        miss(booked(), "call_centre", START - timedelta(seconds=1))


def test_no_show_timer_when_the_end_is_known_then_counts_from_the_end() -> None:
    assert no_show_due_at(START, SCHEDULE.ends_at) == START + timedelta(minutes=75)


@given(st.integers(-3000, 3000))
def test_no_show_of_the_timer_then_never_before_what_the_appointment_stands_on(
    minutes: int,
) -> None:
    status_at = START + timedelta(minutes=minutes)
    assert missed_at(SCHEDULE, status_at) >= max(status_at, START)


def test_arrival_when_marked_missed_then_undoes_it() -> None:
    missed = miss(booked(), "system", START + timedelta(hours=2))
    arrived = arrive(missed, START + timedelta(hours=2, minutes=5))
    assert arrived.status is Status.ARRIVED
    assert arrived.marked_by is None


def test_command_when_a_report_from_the_future_stands_then_sorts_after_it() -> None:
    ahead = MORNING + timedelta(minutes=4)
    confirmed = confirm(replace(booked(), status_at=ahead), MORNING)
    assert confirmed.status_at == ahead


def test_reschedule_when_no_end_is_given_then_keeps_the_length() -> None:
    moved = reschedule(booked(), START + timedelta(days=2), None, MORNING)
    assert moved.schedule is not None
    assert moved.schedule.ends_at == START + timedelta(days=2, minutes=45)


def test_booking_when_it_ends_before_it_starts_then_refused() -> None:
    with pytest.raises(InvalidSchedule):
        book(UUID(int=1), UUID(int=2), replace(SCHEDULE, ends_at=START), MORNING)


def test_stub_when_commanded_then_refused() -> None:
    stub = Appointment(UUID(int=1), UUID(int=2), None, None, None)
    for command in COMMANDS.values():
        with pytest.raises(IllegalMove):
            command(stub, MORNING)


def findings(outcome: Outcome, referral: Referral | None) -> Findings:
    return Findings(Kind.COMPLAINT, outcome, referral, None, Charge(350_000, None, "RUB"))


def inside() -> Appointment:
    return complete(start(arrive(booked(), START), START), START)


@pytest.mark.parametrize(
    ("outcome", "referral"),
    [
        (Outcome.REFERRED_OUT, None),
        (Outcome.TREATED, Referral("no_equipment", "acute")),
    ],
)
def test_visit_when_referral_and_outcome_disagree_then_refused(
    outcome: Outcome, referral: Referral | None
) -> None:
    with pytest.raises(InvalidVisit):
        visit_of(UUID(int=3), inside(), findings(outcome, referral), START)


def test_visit_when_referred_out_then_keeps_reason_and_urgency() -> None:
    referral = Referral("no_equipment", "acute")
    visit = visit_of(UUID(int=3), inside(), findings(Outcome.REFERRED_OUT, referral), START)
    assert visit.referral == referral
    assert visit.arrived_at == START
