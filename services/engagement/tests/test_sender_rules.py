"""The sender from end to end: odd messages among others, keys, and the rules of the gate."""

import json
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from services.engagement.tests.sending import (
    ALL_HEARD,
    BUSY,
    HOUR,
    LIVE_FROM,
    NO_ANSWER,
    NOON,
    NOTHING_HEARD,
    SENT,
    Practice,
)

from engagement.messages.domain import Outcome, SendResult
from revisit_chassis.crypto import Keyring, activate_key, add_key, generate_keyring

MAIL, PHONE = "anna@example.org", "+79990000001"
DAY = timedelta(days=1)
Open = Callable[..., Awaitable[Practice]]


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


async def test_follow_up_of_a_visit_that_came_before_its_patients_contact_waits_for_it(
    clinic: Practice,
) -> None:
    unknown = uuid.uuid4()
    clinic.feed = NOTHING_HEARD._replace(is_fresh=True)
    await clinic.visit(unknown)
    await clinic.run()
    message = await clinic.message()
    assert (message.state, message.reason) == ("scheduled", "contact_unheard")
    await clinic.reach(unknown, email=MAIL)
    await clinic.hurry()
    await clinic.run()
    assert [one.to for one in clinic.mail.calls] == [MAIL]


async def test_wait_for_a_contact_moves_no_message_in_business_time(clinic: Practice) -> None:
    unknown = uuid.uuid4()
    clinic.feed = NOTHING_HEARD._replace(is_fresh=True)
    await clinic.visit(unknown)
    await clinic.run()
    await clinic.reach(unknown, email=MAIL)
    clinic.clock.set(NOON + 11 * HOUR)  # quiet by now, and was not when it was due
    await clinic.hurry()
    await clinic.run()
    assert [one.to for one in clinic.mail.calls] == [MAIL]


async def test_patient_of_whom_nothing_was_heard_until_the_expiry_is_called(
    clinic: Practice,
) -> None:
    clinic.feed = NOTHING_HEARD
    await clinic.visit(uuid.uuid4())
    await clinic.run()
    clinic.clock.set(NOON + 3 * DAY)
    await clinic.run()
    message = await clinic.message()
    assert (message.state, message.reason) == ("dropped", "expired")
    assert len(await clinic.tasks()) == 1


async def test_patient_of_whom_no_contact_ever_came_is_called_once_all_was_heard(
    clinic: Practice,
) -> None:
    clinic.feed = NOTHING_HEARD._replace(is_fresh=True)
    await clinic.visit(uuid.uuid4())
    await clinic.run()
    assert await clinic.tasks() == []
    clinic.feed = ALL_HEARD
    await clinic.hurry()
    await clinic.run()
    message = await clinic.message()
    assert (message.state, message.reason) == ("dropped", "no_channel")
    assert len(await clinic.tasks()) == 1


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
    clinic.feed = ALL_HEARD
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
