"""The sender on a real database with scripted providers: one call, something between, the next call."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from services.engagement.tests.sending import (
    BUSY,
    HOUR,
    NO_ANSWER,
    NOON,
    NOTHING_HEARD,
    REJECTED,
    SENT,
    UNKNOWN,
    Practice,
)

from engagement.channels.domain import Outgoing
from engagement.consent.domain import Purpose
from engagement.messages.domain import SendResult
from revisit_events import testing

MAIL, PHONE = "anna@example.org", "+79990000001"
DAY = timedelta(days=1)
Open = Callable[..., Awaitable[Practice]]


Event = Callable[[Practice, uuid.UUID], Awaitable[None]]


async def nothing(_: Practice, __: uuid.UUID) -> None: ...


async def erased(clinic: Practice, patient: uuid.UUID) -> None:
    await clinic.apply(
        testing.patient_erased(
            clinic_id=clinic.clinic_id, time=clinic.clock.now(), patient_id=patient
        )
    )


async def refused_sms(clinic: Practice, patient: uuid.UUID) -> None:
    await clinic.refuse(patient, "sms")


async def got_an_address(clinic: Practice, patient: uuid.UUID) -> None:
    await clinic.reach(patient, email=MAIL, phone=PHONE, at=clinic.clock.now())


async def got_another_phone(clinic: Practice, patient: uuid.UUID) -> None:
    await clinic.reach(patient, phone="+79990000002", at=clinic.clock.now())


async def paused(clinic: Practice, _: uuid.UUID) -> None:
    await clinic.pause("clinic")


async def expired(clinic: Practice, _: uuid.UUID) -> None:
    clinic.clock.set(clinic.clock.now() + 3 * DAY)


async def quiet(clinic: Practice, _: uuid.UUID) -> None:
    clinic.clock.set(clinic.clock.now() + 11 * HOUR)


async def released(clinic: Practice, patient: uuid.UUID, reason: str = "moved_away") -> None:
    await clinic.execute(
        "INSERT INTO release (clinic_id, release_id, patient_id, reason, released_at, recorded_by,"
        " approved_by) VALUES ($1, $2, $3, $5, $4, 'anna', 'boris')",
        clinic.clinic_id,
        uuid.uuid4(),
        patient,
        clinic.clock.now(),
        reason,
    )


# First call, what happens then, second call if one may follow -> state, open tasks about it, calls.
History = tuple[list[SendResult | Exception], Event, str, list[str], int]
SMS_HISTORIES: dict[str, History] = {
    "taken": ([SENT], nothing, "sent", [], 1),
    "refused": ([REJECTED], nothing, "dropped", ["unreachable"], 1),
    "busy then taken": ([BUSY, SENT], nothing, "sent", [], 2),
    "busy then refused": ([BUSY, REJECTED], nothing, "dropped", ["unreachable"], 2),
    "busy then erased": ([BUSY], erased, "dropped", [], 1),
    "busy then expired": ([BUSY], expired, "dropped", [], 1),
    "busy then refused by the patient": ([BUSY], refused_sms, "dropped", [], 1),
    "no answer then taken": ([NO_ANSWER, SENT], nothing, "sent", [], 2),
    "no answer then busy": ([NO_ANSWER, BUSY], nothing, "scheduled", [], 2),
    "no answer then refused": (
        [NO_ANSWER, REJECTED],
        nothing,
        "uncertain",
        ["uncertain_delivery"],
        2,
    ),
    "no answer then erased": ([NO_ANSWER], erased, "uncertain", [], 1),
    "no answer then expired": ([NO_ANSWER], expired, "uncertain", ["uncertain_delivery"], 1),
    "no answer then refused by the patient": (
        [NO_ANSWER],
        refused_sms,
        "uncertain",
        ["uncertain_delivery"],
        1,
    ),
    "no answer then released": ([NO_ANSWER], released, "uncertain", ["uncertain_delivery"], 1),
    "no answer then another address": ([NO_ANSWER, SENT], got_an_address, "sent", [], 2),
    "no answer then another phone": ([NO_ANSWER, SENT], got_another_phone, "sent", [], 2),
    "no answer then paused": ([NO_ANSWER], paused, "scheduled", [], 1),
    "no answer then quiet hours": ([NO_ANSWER], quiet, "scheduled", [], 1),
    "fault then taken": ([TypeError("odd"), SENT], nothing, "sent", [], 2),
    "fault then expired": ([TypeError("odd")], expired, "uncertain", ["uncertain_delivery"], 1),
}


@pytest.mark.parametrize("name", SMS_HISTORIES)
async def test_sms_history_ends_as_it_must(clinic: Practice, name: str) -> None:
    answers, between, state, tasks, calls = SMS_HISTORIES[name]
    patient = await clinic.patient(phone=PHONE)
    await clinic.visit(patient)
    clinic.sms.answers = [*answers]
    await clinic.run()
    await between(clinic, patient)
    await clinic.run()
    message = await clinic.message()
    assert (message.state, await clinic.tasks()) == (state, tasks)
    assert (len(clinic.sms.calls), clinic.mail.calls) == (calls, [])
    assert message.decision["checks"]
    assert state not in {"dropped", "uncertain"} or message.reason


@pytest.mark.parametrize("second", [BUSY, replace(BUSY, detail="sms_unavailable"), REJECTED])
@pytest.mark.parametrize("event", [expired, erased, refused_sms, got_an_address])
async def test_doubt_of_the_first_call_outlives_the_second(
    clinic: Practice, second: SendResult, event: Event
) -> None:
    patient = await clinic.patient(phone=PHONE)
    await clinic.visit(patient)
    clinic.sms.answers = [NO_ANSWER, second, BUSY]
    await clinic.run()
    await clinic.run()
    await event(clinic, patient)
    await clinic.run()
    message = await clinic.message()
    assert clinic.mail.calls == []
    assert message.state in {"uncertain", "scheduled"}
    assert message.state == "uncertain" or message.waiting_for == "answer"


async def test_sms_in_flight_at_a_crash_keeps_its_doubt(clinic: Practice) -> None:
    await clinic.visit(await clinic.patient(phone=PHONE))
    clinic.sms.during = crash
    with pytest.raises(BaseExceptionGroup):
        await clinic.run()
    clinic.sms.during = None
    clinic.sms.answers = [BUSY]
    await clinic.lapse()
    await clinic.run()
    assert (await clinic.message()).waiting_for == "answer"
    assert clinic.sms.calls[0].content == clinic.sms.calls[1].content


class Crash(BaseException):
    """Ends a run as a kill would: nothing after the call is written."""


async def crash(_: Outgoing) -> None:
    raise Crash


async def test_letter_in_flight_at_a_crash_is_uncertain_and_never_sent_again(
    clinic: Practice,
) -> None:
    await clinic.visit(await clinic.patient(email=MAIL, phone=PHONE))
    clinic.mail.during = crash
    with pytest.raises(BaseExceptionGroup):
        await clinic.run()
    await clinic.lapse()
    await clinic.run()
    assert (await clinic.message()).state == "uncertain"
    assert await clinic.tasks() == ["uncertain_delivery"]
    assert (len(clinic.mail.calls), clinic.sms.calls) == (1, [])


@pytest.mark.parametrize(
    ("answer", "state", "tasks"),
    [
        (SENT, "sent", []),
        (UNKNOWN, "uncertain", ["uncertain_delivery"]),
        (REJECTED, "dropped", ["unreachable"]),
        (ValueError("odd"), "uncertain", ["uncertain_delivery"]),
    ],
)
async def test_letter_ends_by_its_one_answer(
    clinic: Practice, answer: SendResult | Exception, state: str, tasks: list[str]
) -> None:
    await clinic.visit(await clinic.patient(email=MAIL))
    clinic.mail.answers = [answer]
    await clinic.run()
    await clinic.run()
    assert ((await clinic.message()).state, await clinic.tasks()) == (state, tasks)
    assert len(clinic.mail.calls) == 1


async def test_letter_that_was_surely_not_taken_may_go_by_sms(clinic: Practice) -> None:
    patient = await clinic.patient(email=MAIL, phone=PHONE)
    await clinic.visit(patient)
    clinic.mail.answers = [BUSY]
    await clinic.run()
    await clinic.refuse(patient, "email")
    await clinic.run()
    assert (len(clinic.mail.calls), len(clinic.sms.calls)) == (1, 1)
    assert (await clinic.message()).state == "sent"


async def test_repeated_sms_says_the_same_and_a_repeated_letter_issues_no_second_link(
    clinic: Practice,
) -> None:
    await clinic.visit(await clinic.patient(phone=PHONE))
    await clinic.visit(await clinic.patient(email=MAIL))
    clinic.sms.answers, clinic.mail.answers = [BUSY, NO_ANSWER], [BUSY, BUSY]
    for _ in range(3):
        await clinic.run()
    for channel in (clinic.sms, clinic.mail):
        assert len(channel.calls) == 3
        assert len({one.content for one in channel.calls}) == 1
    issued = await clinic.events("link.issued")
    links = await clinic.execute("SELECT * FROM link")
    assert (len(issued), len(links)) == (2, 2)


async def test_links_of_a_message_that_changes_its_channel_are_issued_once(
    clinic: Practice,
) -> None:
    patient = await clinic.patient(email=MAIL, phone=PHONE)
    await clinic.visit(patient)
    clinic.mail.answers = [BUSY]
    await clinic.run()
    await clinic.refuse(patient, "email")
    await clinic.run()
    assert len(await clinic.events("link.issued")) == 1
    links = await clinic.execute("SELECT channel FROM link ORDER BY 1")
    assert [one.channel for one in links] == ["email", "sms"]


# What happens between the decision and the call: seen by the last look, explained by the next decision.


async def cancelled(clinic: Practice, patient: uuid.UUID, appointment: uuid.UUID) -> None:
    await clinic.apply(
        testing.appointment_cancelled(
            clinic_id=clinic.clinic_id,
            time=clinic.clock.now(),
            appointment_id=appointment,
            patient_id=patient,
        )
    )


async def moved(clinic: Practice, patient: uuid.UUID, appointment: uuid.UUID) -> None:
    await clinic.apply(
        testing.appointment_rescheduled(
            clinic_id=clinic.clinic_id,
            time=clinic.clock.now(),
            appointment_id=appointment,
            patient_id=patient,
            starts_at=clinic.clock.now() + 5 * DAY,
        )
    )


async def of_another(clinic: Practice, _: uuid.UUID, appointment: uuid.UUID) -> None:
    boris = await clinic.patient(email="boris@example.org")
    await clinic.appointment(
        boris,
        NOON + 23 * HOUR,
        appointment_id=appointment,
        time=clinic.clock.now(),
        source="//mis.example",
    )


async def erased_too(clinic: Practice, patient: uuid.UUID, _: uuid.UUID) -> None:
    await erased(clinic, patient)


async def refused_both(clinic: Practice, patient: uuid.UUID, _: uuid.UUID) -> None:
    for channel in ("email", "sms"):
        await clinic.refuse(patient, channel, Purpose.SERVICE)


async def paused_now(clinic: Practice, _: uuid.UUID, __: uuid.UUID) -> None:
    await clinic.pause("journey:reminder")


async def cut_off(clinic: Practice, _: uuid.UUID, __: uuid.UUID) -> None:
    clinic.feed = NOTHING_HEARD


async def died(clinic: Practice, patient: uuid.UUID, _: uuid.UUID) -> None:
    await released(clinic, patient, "died")


@pytest.mark.parametrize(
    ("change", "state", "reason"),
    [
        (cancelled, "dropped", "appointment_cancelled"),
        (moved, "dropped", "appointment_moved"),
        (of_another, "dropped", "appointment_unknown"),
        (erased_too, "dropped", "patient_erased"),
        (refused_both, "dropped", "consent_refused"),
        (died, "dropped", "released"),
        (paused_now, "scheduled", "paused"),
        (cut_off, "scheduled", "feed_behind"),
    ],
)
async def test_change_while_others_are_called_is_seen_before_the_call(
    clinic: Practice, change: Any, state: str, reason: str
) -> None:
    first = await clinic.patient(email="first@example.org")
    await clinic.appointment(first, NOON + 22 * HOUR)
    anna = await clinic.patient(email=MAIL)
    appointment = await clinic.appointment(anna)

    async def happens(_: Outgoing) -> None:
        clinic.mail.during = None
        await change(clinic, anna, appointment)

    clinic.mail.during = happens
    await clinic.run()
    assert [one.to for one in clinic.mail.calls] == ["first@example.org"]
    await clinic.run()
    message = next(one for one in await clinic.messages() if one.patient_id == anna)
    assert (message.state, message.reason) == (state, reason)
    assert MAIL not in [one.to for one in clinic.mail.calls]


async def test_who_is_released_is_reminded_of_an_appointment_that_stands(clinic: Practice) -> None:
    anna = await clinic.patient(email=MAIL)
    await clinic.visit(anna)
    await clinic.appointment(anna)
    await released(clinic, anna, "treatment_ended")
    await clinic.run()
    ended = {one.journey: (one.state, one.reason) for one in await clinic.messages()}
    assert ended == {"reminder": ("sent", None), "follow-up": ("dropped", "released")}


async def test_refused_reminder_is_a_call_at_once_and_before_the_appointment(
    clinic: Practice,
) -> None:
    anna = await clinic.patient(phone=PHONE)
    appointment = await clinic.appointment(anna)
    clinic.sms.answers = [REJECTED]
    await clinic.run()
    (task,) = await clinic.execute("SELECT reason, next_at, due_at FROM task")
    (row,) = await clinic.execute(
        "SELECT starts_at FROM appointment WHERE appointment_id = $1", appointment
    )
    assert task.reason == "unreachable"
    assert task.next_at <= clinic.clock.now() < task.due_at < row.starts_at


async def test_address_that_changes_before_the_call_gets_the_letter(clinic: Practice) -> None:
    await clinic.visit(await clinic.patient(email="first@example.org"), NOON - 26 * HOUR)
    anna = await clinic.patient(email="old@example.org")
    await clinic.visit(anna)

    async def happens(_: Outgoing) -> None:
        clinic.mail.during = None
        await clinic.reach(anna, email=MAIL, at=clinic.clock.now())

    clinic.mail.during = happens
    await clinic.run()
    await clinic.run()
    assert [one.to for one in clinic.mail.calls] == ["first@example.org", MAIL]


async def test_sender_that_lost_its_claim_neither_calls_nor_writes(clinic: Practice) -> None:
    """A process that was stopped for longer than its lease wakes up amid its batch."""
    await clinic.visit(await clinic.patient(phone=PHONE), NOON - 26 * HOUR)
    await clinic.visit(await clinic.patient(phone="+79990000002"))
    other = clinic.another_sender()

    async def sleep(_: Outgoing) -> None:
        clinic.sms.during = None
        await clinic.lapse()
        await other.run_due(clinic.clock)

    clinic.sms.during = sleep
    clinic.sms.answers = [SENT, SENT, REJECTED]
    await clinic.run()
    assert [one.state for one in await clinic.messages()] == ["sent", "sent"]
    # The first twice under one key, the second by the other sender alone.
    assert [one.to for one in clinic.sms.calls] == [PHONE, PHONE, "+79990000002"]
    assert len(await clinic.events("message.sent")) == 2
    assert await clinic.tasks() == []


async def test_outcomes_are_written_while_others_are_still_called(clinic: Practice) -> None:
    clinic.sms.places = 2
    await clinic.visit(await clinic.patient(phone=PHONE), NOON - 26 * HOUR)
    await clinic.visit(await clinic.patient(phone="+79990000002"))
    states: list[str] = []

    async def hang(outgoing: Outgoing) -> None:
        if outgoing.to == PHONE:
            return
        for _ in range(200):
            states[:] = [one.state for one in await clinic.messages()]
            if states[0] == "sent":
                return
            await asyncio.sleep(0.02)

    clinic.sms.during = hang
    await clinic.run()
    assert states == ["sent", "sending"]


async def test_nothing_is_called_at_the_end_of_a_lease(
    clinic: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engagement.messages.sender.LEASE", timedelta(seconds=44))
    await clinic.visit(await clinic.patient(email=MAIL))
    await clinic.run()
    message = await clinic.message()
    assert (clinic.mail.calls, message.state, message.waiting_for) == ([], "scheduled", "provider")


async def test_one_that_waits_for_a_slow_one_is_not_called_after_the_lease(
    clinic: Practice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engagement.messages.sender.LEASE", timedelta(seconds=46))
    await clinic.visit(await clinic.patient(email="first@example.org"), NOON - 26 * HOUR)
    await clinic.visit(await clinic.patient(email=MAIL))

    async def slow(_: Outgoing) -> None:
        await asyncio.sleep(1.2)

    clinic.mail.during = slow
    await clinic.run()
    assert [one.to for one in clinic.mail.calls] == ["first@example.org"]
    assert [one.state for one in await clinic.messages()] == ["sent", "scheduled"]
