"""The sender on a real database with scripted providers: one call, something between, the next call."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from services.engagement.tests.sending import (
    BUSY,
    HOUR,
    LIVE_FROM,
    NO_ANSWER,
    NOON,
    REJECTED,
    SENT,
    UNKNOWN,
    Practice,
    practice,
)

from engagement.channels.domain import Outgoing
from engagement.consent.domain import Purpose
from engagement.messages.domain import Outcome, SendResult
from revisit_chassis.crypto import Keyring, activate_key, add_key, generate_keyring
from revisit_events import testing
from standalone.cluster import Cluster, ServiceDatabase

MAIL, PHONE = "anna@example.org", "+79990000001"
DAY = timedelta(days=1)
Open = Callable[..., Awaitable[Practice]]


@pytest.fixture(scope="module")
def engagement_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("engagement")


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    path = tmp_path / "keyring.json"
    generate_keyring(path)
    return path


@pytest.fixture
async def open_practice(engagement_database: ServiceDatabase, keyring: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def make(now: datetime = NOON, **clinic: Any) -> Practice:
            return await stack.enter_async_context(
                practice(engagement_database, keyring, now, **clinic)
            )

        yield make


@pytest.fixture
async def clinic(open_practice: Open) -> Practice:
    return await open_practice()


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


async def released(clinic: Practice, patient: uuid.UUID) -> None:
    await clinic.execute(
        "INSERT INTO release (clinic_id, release_id, patient_id, reason, released_at, recorded_by,"
        " approved_by) VALUES ($1, $2, $3, 'moved_away', $4, 'anna', 'boris')",
        clinic.clinic_id,
        uuid.uuid4(),
        patient,
        clinic.clock.now(),
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
    clinic.is_feed_fresh = False


async def released_now(clinic: Practice, patient: uuid.UUID, _: uuid.UUID) -> None:
    await released(clinic, patient)


@pytest.mark.parametrize(
    ("change", "state", "reason"),
    [
        (cancelled, "dropped", "appointment_cancelled"),
        (moved, "dropped", "appointment_moved"),
        (of_another, "dropped", "appointment_unknown"),
        (erased_too, "dropped", "patient_erased"),
        (refused_both, "dropped", "consent_refused"),
        (released_now, "dropped", "released"),
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


# One odd message among others.


@pytest.mark.parametrize(
    ("block", "state"),
    [(b"[]", "scheduled"), (b"no json", "scheduled"), (b'{"email": 7, "name": "x"}', "dropped")],
)
async def test_odd_contact_harms_no_other_message(
    clinic: Practice, block: bytes, state: str
) -> None:
    odd = await clinic.patient()
    await clinic.sealed(odd, block, at=NOON)
    await clinic.visit(odd)
    await clinic.visit(await clinic.patient(email=MAIL))
    await clinic.run()
    states = {one.patient_id: one.state for one in await clinic.messages()}
    assert states[odd] == state
    assert [one.to for one in clinic.mail.calls] == [MAIL]


@pytest.mark.parametrize("is_called", [False, True])
async def test_message_that_cannot_be_judged_ends_with_a_reason(
    clinic: Practice, *, is_called: bool
) -> None:
    odd = await clinic.patient(phone=PHONE)
    await clinic.visit(odd)
    await clinic.visit(await clinic.patient(email=MAIL), NOON - 26 * HOUR)
    clinic.sms.answers = [NO_ANSWER]
    if is_called:
        await clinic.run()
        await clinic.execute("UPDATE message SET waiting_for = 'answer'")
    await clinic.execute(
        "UPDATE message SET journey = 'reminder', occurrence = 'odd' WHERE patient_id = $1", odd
    )
    await clinic.run()
    message = next(one for one in await clinic.messages() if one.patient_id == odd)
    expected = ("uncertain", "uncertain_delivery") if is_called else ("dropped", "unreachable")
    assert (message.state, await clinic.tasks()) == (expected[0], [expected[1]])
    assert message.reason == "not_judged"
    assert message.decision["checks"][0]["name"] == "judgement"
    assert [one.to for one in clinic.mail.calls] == [MAIL]
    assert await clinic.run() == 0


async def test_answer_that_cannot_be_stored_harms_no_other_message(clinic: Practice) -> None:
    clinic.sms.places = 2
    await clinic.visit(await clinic.patient(phone=PHONE), NOON - 26 * HOUR)
    await clinic.visit(await clinic.patient(phone="+79990000002"))
    clinic.sms.answers = [SendResult(Outcome.SENT, "ok", "nul \x00"), SENT]
    await clinic.run()
    assert sorted(one.state for one in await clinic.messages()) == ["sent", "uncertain"]
    assert await clinic.tasks() == ["uncertain_delivery"]


# Keys.


async def test_contact_under_a_key_that_came_later_is_read_after_the_ring(
    clinic: Practice, keyring: Path
) -> None:
    activate_key(keyring, add_key(keyring))
    anna = await clinic.patient()
    await clinic.sealed(
        anna, json.dumps({"email": MAIL}).encode(), at=NOON, keyring=Keyring.load(keyring)
    )
    await clinic.visit(anna)
    await clinic.run()
    assert [one.to for one in clinic.mail.calls] == [MAIL]


async def test_contact_under_an_unknown_key_waits_and_is_not_dropped(
    clinic: Practice, tmp_path: Path
) -> None:
    generate_keyring(tmp_path / "other.json")
    anna = await clinic.patient()
    await clinic.sealed(
        anna,
        json.dumps({"email": MAIL}).encode(),
        at=NOON,
        keyring=Keyring.load(tmp_path / "other.json"),
    )
    await clinic.visit(anna)
    await clinic.run()
    message = await clinic.message()
    assert (message.state, message.reason) == ("scheduled", "contact_unreadable")
    assert await clinic.tasks() == []


# The rules of the gate, from end to end.


async def test_cap_lets_one_care_message_a_day_leave_and_moves_the_next(clinic: Practice) -> None:
    anna = await clinic.patient(email=MAIL)
    await clinic.visit(anna, NOON - 26 * HOUR)
    await clinic.visit(anna)
    await clinic.run()
    assert len(clinic.mail.calls) == 1
    clinic.clock.set(NOON + DAY)
    await clinic.run()
    assert len(clinic.mail.calls) == 2
    assert [one.state for one in await clinic.messages()] == ["sent", "sent"]


async def test_message_that_may_have_arrived_counts_for_the_cap(clinic: Practice) -> None:
    anna = await clinic.patient(phone=PHONE)
    await clinic.visit(anna, NOON - 26 * HOUR)
    clinic.sms.answers = [NO_ANSWER, BUSY, BUSY]
    await clinic.run()
    await clinic.visit(anna)
    await clinic.run()
    assert len({one.message_id for one in clinic.sms.calls}) == 1


async def test_follow_up_due_in_quiet_hours_leaves_at_their_end(open_practice: Open) -> None:
    late = NOON + 11 * HOUR  # 23:00 in Moscow
    clinic = await open_practice(late)
    await clinic.visit(await clinic.patient(email=MAIL), late - 24 * HOUR)
    assert await clinic.run() == 0
    clinic.clock.set(late + 10 * HOUR)
    await clinic.run()
    assert [one.at for one in clinic.mail.calls] == [late + 10 * HOUR]


async def test_quiet_hours_are_those_of_the_patient(open_practice: Open) -> None:
    clinic = await open_practice()
    omsk = await clinic.patient(email=MAIL, time_zone="Asia/Kamchatka")  # 21:00 there
    await clinic.visit(omsk)
    await clinic.run()
    assert clinic.mail.calls == []
    clinic.clock.set(NOON + 12 * HOUR)
    await clinic.run()
    assert len(clinic.mail.calls) == 1


async def test_expired_message_is_dropped_with_its_reason(clinic: Practice) -> None:
    await clinic.visit(await clinic.patient(email=MAIL))
    clinic.clock.set(NOON + 2 * DAY)
    clinic.is_feed_fresh = True
    await clinic.execute("UPDATE message SET expires_at = $1", NOON)
    await clinic.run()
    message = await clinic.message()
    assert (message.state, message.reason, clinic.mail.calls) == ("dropped", "expired", [])


async def test_visit_of_another_patient_by_now_is_no_business_of_the_old_one(
    clinic: Practice,
) -> None:
    anna, boris = await clinic.patient(email=MAIL), await clinic.patient(email="b@example.org")
    visit = await clinic.visit(anna)
    await clinic.execute("UPDATE message SET attempt = 1")
    await clinic.visit(boris, NOON - 25 * HOUR, visit_id=visit, time=NOON - HOUR)
    await clinic.run()
    await clinic.run()
    states = {one.patient_id: (one.state, one.reason) for one in await clinic.messages()}
    assert states[anna] == ("dropped", "visit_moved")
    assert [one.to for one in clinic.mail.calls] == ["b@example.org"]


async def test_visit_before_the_clinic_went_live_gets_no_message(clinic: Practice) -> None:
    await clinic.visit(await clinic.patient(email=MAIL), LIVE_FROM - timedelta(minutes=1))
    assert await clinic.messages() == []


@pytest.mark.parametrize("zone", ["Europe/Moscow", "America/New_York", "Asia/Kathmandu"])
@pytest.mark.parametrize("hour", range(0, 24, 5))
async def test_follow_up_leaves_24_to_72_hours_after_the_visit(
    open_practice: Open, zone: str, hour: int
) -> None:
    completed = NOON + hour * HOUR
    clinic = await open_practice(completed, time_zone=zone)
    await clinic.visit(await clinic.patient(email=MAIL), completed)
    clinic.clock.set(completed + 80 * HOUR, step_from=completed)
    await clinic.run()
    (letter,) = clinic.mail.calls
    assert 24 * HOUR <= letter.at - completed < 72 * HOUR
    assert (letter.at - completed) < 24 * HOUR + 12 * HOUR


async def test_reminder_leaves_within_a_day_of_the_appointment(clinic: Practice) -> None:
    starts = NOON + 40 * HOUR
    await clinic.appointment(await clinic.patient(email=MAIL), starts)
    clinic.clock.set(starts + HOUR, step_from=NOON)
    await clinic.run()
    (letter,) = clinic.mail.calls
    assert starts - 24 * HOUR <= letter.at < starts - 2 * HOUR


async def test_text_names_neither_diagnosis_nor_specialty_nor_service(clinic: Practice) -> None:
    for reach in ({"email": MAIL}, {"phone": PHONE}):
        for language in ("ru", "en"):
            anna = await clinic.patient(language=language, **reach)
            await clinic.visit(anna, specialty_code="oncology", service_code="chemo.session")
            await clinic.appointment(anna, specialty_code="oncology", service_code="chemo.session")
    await clinic.run()
    calls = clinic.mail.calls + clinic.sms.calls
    assert len(calls) == 8
    for one in calls:
        said = " ".join(filter(None, (one.content.subject, one.content.text, one.content.html)))
        assert not any(word in said.lower() for word in ("oncolog", "chemo", "онко"))
        assert "Clinic" in one.sender_name
