from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engagement.messages.domain import Channel, LegalClass
from engagement.messages.gate import AppointmentFact, Situation, Verdict, decide
from engagement.messages.policy import DEFAULT

NOON = datetime(2026, 1, 15, 9, 0, tzinfo=UTC)  # noon in Moscow
STARTS = NOON + timedelta(hours=20)

FOLLOW_UP = Situation(
    now=NOON,
    journey="follow-up",
    legal_class=LegalClass.CARE,
    expires_at=NOON + timedelta(hours=48),
    time_zone="Europe/Moscow",
    policy=DEFAULT,
    reachable=frozenset({Channel.EMAIL, Channel.SMS}),
    consent={},
)
REMINDER = replace(
    FOLLOW_UP,
    journey="reminder",
    legal_class=LegalClass.SERVICE,
    expires_at=STARTS - timedelta(hours=2),
    needs_appointment=True,
    appointment=AppointmentFact("booked", STARTS),
    planned_start=STARTS,
)


def test_care_message_goes_by_mail_first() -> None:
    decision = decide(FOLLOW_UP)
    assert (decision.verdict, decision.channel) == (Verdict.SEND, Channel.EMAIL)


@pytest.mark.parametrize(
    ("situation", "change", "reason"),
    [
        (FOLLOW_UP, {"is_erased": True}, "patient_erased"),
        (FOLLOW_UP, {"is_released": True}, "released"),
        (FOLLOW_UP, {"now": FOLLOW_UP.expires_at}, "expired"),
        (FOLLOW_UP, {"reachable": frozenset()}, "no_channel"),
        (REMINDER, {"appointment": AppointmentFact("cancelled", STARTS)}, "appointment_cancelled"),
        (REMINDER, {"appointment": AppointmentFact("no_show", STARTS)}, "appointment_no_show"),
        (
            REMINDER,
            {"appointment": AppointmentFact("booked", STARTS + timedelta(hours=1))},
            "appointment_moved",
        ),
        (REMINDER, {"appointment": None}, "appointment_unknown"),
    ],
)
def test_what_forbids_a_message_drops_it_and_says_why(
    situation: Situation, change: dict[str, Any], reason: str
) -> None:
    decision = decide(replace(situation, **change))
    assert (decision.verdict, decision.reason) == (Verdict.DROP, reason)


def test_refusal_in_one_channel_leads_to_the_other_and_in_both_to_none() -> None:
    one = decide(replace(FOLLOW_UP, consent={("care", "email"): "refused"}))
    assert (one.verdict, one.channel) == (Verdict.SEND, Channel.SMS)
    refused = {("care", "email"): "refused", ("care", "sms"): "refused"}
    assert decide(replace(FOLLOW_UP, consent=refused)).verdict is Verdict.DROP


def test_advertising_needs_recorded_consent() -> None:
    offer = replace(FOLLOW_UP, legal_class=LegalClass.ADVERTISING)
    assert decide(offer).verdict is Verdict.DROP
    granted = replace(offer, consent={("advertising", "email"): "granted"})
    assert decide(granted).verdict is Verdict.SEND


def test_message_about_an_appointment_waits_while_the_feed_is_stale() -> None:
    assert decide(replace(REMINDER, is_feed_fresh=False)).verdict is Verdict.WAIT
    assert decide(replace(FOLLOW_UP, is_feed_fresh=False)).verdict is Verdict.SEND


def test_cap_counts_care_and_exempts_service() -> None:
    assert decide(replace(FOLLOW_UP, sent_on_day=1)).verdict is not Verdict.SEND
    assert decide(replace(REMINDER, sent_on_day=1)).verdict is Verdict.SEND


@given(
    minutes=st.integers(0, 3 * 24 * 60),
    zone=st.sampled_from(
        [
            "Europe/Moscow",
            "America/New_York",
            "Asia/Kathmandu",
            "Pacific/Auckland",
            "America/Sao_Paulo",
        ]
    ),
)
def test_nothing_ever_leaves_in_quiet_hours(minutes: int, zone: str) -> None:
    moment = datetime(2026, 3, 7, tzinfo=UTC) + timedelta(minutes=minutes)
    situation = replace(
        FOLLOW_UP, now=moment, time_zone=zone, expires_at=moment + timedelta(hours=48)
    )
    decision = decide(situation)
    hour = moment.astimezone(ZoneInfo(zone)).hour
    assert (decision.verdict is Verdict.SEND) == (9 <= hour < 21)
    if decision.until is not None:
        assert decide(replace(situation, now=decision.until)).verdict is Verdict.SEND
