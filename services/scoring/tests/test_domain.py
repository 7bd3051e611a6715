import doctest
import importlib
import pkgutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scoring.domain
from scoring.domain.assessment import assess, review_at
from scoring.domain.churn import BAND_FROM, MOST, RECENT, STEP, Band, churn_risk
from scoring.domain.facts import WINDOW, Facts, next_midnight, zone_of
from scoring.domain.rfm import Rfm, rfm_of
from scoring.domain.segments import (
    LifeSituation,
    TreatmentState,
    life_situation_of,
    treatment_state_of,
)
from scoring.texts import reason_text

MOSCOW = zone_of("Europe/Moscow")
NOW = datetime(2026, 6, 1, 12, tzinfo=MOSCOW)
DAY = timedelta(days=1)


def facts(days_ago: float = 0, **given: object) -> Facts:
    """Of a patient who came once, so many days ago, for a procedure."""
    last = NOW - days_ago * DAY
    usual: dict[str, object] = {
        "visits": 1,
        "first_visit_at": last,
        "last_visit_at": last,
        "last_outcome": "in_treatment",
        "recent_visits": 1,
        "recent_since": last,
    }
    return Facts(**(usual | given))  # type: ignore[arg-type]  # a table of cases


MODULES = [
    importlib.import_module(f"scoring.domain.{found.name}")
    for found in pkgutil.iter_modules(scoring.domain.__path__)
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.__name__))
def test_worked_examples_of_the_rules_hold(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def test_most_rules_have_a_worked_example() -> None:
    assert sum(doctest.testmod(module).attempted for module in MODULES) >= 15


@pytest.mark.parametrize(
    ("given_facts", "segment"),
    [
        ({"payer": "corporate", "is_chronic": True}, LifeSituation.CORPORATE),
        ({"employer_id": 1, "birth_year": 1940}, LifeSituation.CORPORATE),
        ({"is_chronic": True, "family_id": 1}, LifeSituation.ELDERLY_CHRONIC),
        ({"birth_year": 1966, "family_id": 1}, LifeSituation.ELDERLY_CHRONIC),
        ({"birth_year": 1967, "family_id": 1}, LifeSituation.FAMILY),
        ({"family_id": 1, "complaint_visits": 1}, LifeSituation.FAMILY),
        ({"complaint_visits": 1, "birth_year": 1996}, LifeSituation.EMERGENCY_CONSULT),
        ({"visits": 2, "complaint_visits": 2}, LifeSituation.EMERGENCY_CONSULT),
        ({"visits": 3, "complaint_visits": 3}, LifeSituation.OTHER),
        ({"birth_year": 2008}, LifeSituation.YOUNG_PROFESSIONAL),
        ({"birth_year": 2009}, LifeSituation.OTHER),
        ({"birth_year": 1987}, LifeSituation.YOUNG_PROFESSIONAL),
        ({"birth_year": 1986}, LifeSituation.OTHER),
        ({}, LifeSituation.OTHER),
    ],
)
def test_life_situation_is_the_first_that_fits(
    given_facts: dict[str, object], segment: LifeSituation
) -> None:
    assert life_situation_of(facts(**given_facts), NOW) == segment  # type: ignore[arg-type]


def test_age_follows_the_clinics_calendar() -> None:
    midnight_in_moscow = datetime(2025, 12, 31, 21, tzinfo=UTC)
    known = facts(birth_year=1966)
    assert life_situation_of(known, midnight_in_moscow) == LifeSituation.OTHER
    local = midnight_in_moscow.astimezone(MOSCOW)
    assert life_situation_of(known, local) == LifeSituation.ELDERLY_CHRONIC


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("referred_out", TreatmentState.REFERRED),
        ("treatment_not_started", TreatmentState.NOT_STARTED),
        ("healthy", TreatmentState.HEALTHY),
        ("treated", TreatmentState.TREATED),
        ("in_treatment", TreatmentState.IN_CARE),
        ("under_observation", TreatmentState.IN_CARE),
    ],
)
def test_treatment_state_follows_the_last_outcome_for_a_year(
    outcome: str, state: TreatmentState
) -> None:
    assert treatment_state_of(facts(364.9, last_outcome=outcome), NOW) == state
    assert treatment_state_of(facts(365, last_outcome=outcome), NOW) == TreatmentState.LOST
    booked = facts(400, last_outcome=outcome, booked_until=NOW + DAY)
    assert treatment_state_of(booked, NOW) == state


@pytest.mark.parametrize(
    ("days", "visits", "cheques", "scores"),
    [
        (0, 9, 8.0, Rfm(5, 5, 5)),
        (90, 8, 7.9, Rfm(5, 5, 4)),
        (90.1, 7, 5.0, Rfm(4, 4, 4)),
        (180, 5, 4.9, Rfm(4, 4, 3)),
        (365, 4, 3.0, Rfm(3, 3, 3)),
        (366, 3, 2.0, Rfm(2, 3, 2)),
        (540, 2, 1.9, Rfm(2, 2, 1)),
        (541, 1, 0.0, Rfm(1, 1, 1)),
        (1000, 0, -1.0, Rfm(1, 1, 1)),
    ],
)
def test_rfm_scores_have_fixed_cuts(days: float, visits: int, cheques: float, scores: Rfm) -> None:
    known = facts(
        days,
        recent_visits=visits,
        recent_charged_minor=int(cheques * 200_000),
        average_cheque_minor=200_000,
    )
    assert rfm_of(known, NOW) == scores


def test_money_has_no_score_without_a_known_cheque() -> None:
    assert rfm_of(facts(recent_charged_minor=500_000), NOW).monetary is None


@pytest.mark.parametrize(
    ("ratio", "probability", "band"),
    [
        (0.0, 0.0, Band.LOW),
        (0.5, 0.1591, Band.LOW),
        (0.9, 0.4296, Band.LOW),
        (1.0, 0.5, Band.MEDIUM),
        (1.3, 0.6901, Band.MEDIUM),
        (1.4, 0.743, Band.HIGH),
        (2.0, 0.9375, Band.HIGH),
        (20.0, 0.99, Band.HIGH),
    ],
)
def test_risk_grows_with_silence_and_is_never_certain(
    ratio: float, probability: float, band: Band
) -> None:
    found = churn_risk(facts(180 * ratio), NOW)
    assert (found.probability, found.band) == (probability, band)


def test_reasons_are_what_weighs_heaviest_first() -> None:
    assert churn_risk(facts(100), NOW).reasons == ("interval_running",)
    worried = facts(
        210,
        last_outcome="treatment_not_started",
        last_no_show_at=NOW - 100 * DAY,
        last_low_score_at=NOW - 179 * DAY,
    )
    assert churn_risk(worried, NOW).reasons == (
        "low_score",
        "recent_no_show",
        "treatment_not_started",
        "overdue_service_rhythm",
    )
    longer = replace(worried, last_visit_at=NOW - 400 * DAY, first_visit_at=NOW - 400 * DAY)
    assert churn_risk(longer, NOW).reasons[0] == "overdue_service_rhythm"
    booked = replace(longer, booked_until=NOW + DAY)
    assert churn_risk(booked, NOW).reasons[0] == "next_appointment_booked"


def test_worry_counts_as_a_quarter_more_silence_for_half_a_year() -> None:
    worried = churn_risk(facts(100, last_no_show_at=NOW - 50 * DAY), NOW)
    assert worried.probability == churn_risk(facts(125), NOW).probability
    past = churn_risk(facts(100, last_no_show_at=NOW - RECENT), NOW)
    assert (past.probability, past.reasons) == (
        churn_risk(facts(100), NOW).probability,
        ("interval_running",),
    )


def test_booking_ahead_leaves_a_fifth() -> None:
    alone = churn_risk(facts(180), NOW)
    booked = churn_risk(facts(180, booked_until=NOW + DAY), NOW)
    assert booked.probability == round(alone.probability / 5, 4)
    over = churn_risk(facts(180, booked_until=NOW), NOW)
    assert over == alone


def test_own_rhythm_wins_over_the_services_with_more_visits() -> None:
    monthly = facts(60, visits=13, first_visit_at=NOW - 420 * DAY, service_interval_days=180.0)
    found = churn_risk(monthly, NOW)
    assert found.horizon_days == round((360 + 2 * 180) / 14)
    assert found.reasons == ("overdue_own_rhythm",)


def test_medium_and_high_risks_have_a_reason() -> None:
    for days in range(0, 1000, 7):
        found = churn_risk(facts(days), NOW)
        assert found.band is Band.LOW or found.reasons


def test_every_reason_has_a_text_in_both_languages() -> None:
    booked = facts(
        900,
        booked_until=NOW + DAY,
        last_outcome="treatment_not_started",
        last_no_show_at=NOW,
        last_low_score_at=NOW,
    )
    codes = {*churn_risk(booked, NOW).reasons, "overdue_own_rhythm"}
    assert len(codes) == 6
    for code in codes:
        assert set(reason_text(code).values()).isdisjoint({code})


MOMENTS = st.floats(0, 1500).map(lambda days: NOW - days * DAY)
ANY_FACTS = st.builds(
    facts,
    st.floats(0, 2000),
    visits=st.just(1),
    last_outcome=st.sampled_from(["treated", "treatment_not_started", "in_treatment"]),
    booked_until=st.none() | st.floats(-5, 200).map(lambda days: NOW + days * DAY),
    last_no_show_at=st.none() | MOMENTS,
    last_low_score_at=st.none() | MOMENTS,
    birth_year=st.none() | st.integers(1900, 2026),
)


def told(known: Facts, now: datetime) -> tuple[object, ...]:
    found = assess(known, now)
    return (found.life_situation, found.treatment_state, found.rfm.recency, found.churn.band)


@given(ANY_FACTS)
def test_before_its_review_nothing_that_is_told_of_a_patient_changes(known: Facts) -> None:
    found = assess(known, NOW)
    # The midnight before it: up to then the answer given now still holds.
    last = (found.review_at - DAY - timedelta(hours=1)).astimezone(MOSCOW)
    if last > NOW:
        assert told(known, last) == told(known, NOW)
        assert abs(churn_risk(known, last).probability - found.churn.probability) < STEP + 1e-4


@given(ANY_FACTS)
def test_review_is_a_local_midnight_ahead(known: Facts) -> None:
    local = review_at(known, NOW).astimezone(MOSCOW)
    assert local > NOW
    assert (local.hour, local.minute, local.second, local.microsecond) == (0, 0, 0, 0)


@given(ANY_FACTS)
def test_ten_silent_years_cost_few_reviews(known: Facts) -> None:
    now, reviews = NOW, 0
    while now < NOW + 3650 * DAY:
        now = review_at(known, now).astimezone(MOSCOW)
        reviews += 1
    assert reviews <= 40


def test_long_absent_patient_is_left_in_peace() -> None:
    absent = facts(2000, recent_since=None, recent_visits=0)
    assert churn_risk(absent, NOW).probability == MOST
    assert review_at(absent, NOW) > NOW + 3600 * DAY


@pytest.mark.parametrize(
    ("known", "day"),
    [
        (facts(355), "2026-06-12"),
        (facts(2000, booked_until=NOW + 30 * DAY, recent_since=None), "2026-07-02"),
        (facts(2000, birth_year=1967, recent_since=None), "2027-01-01"),
        (facts(2000, birth_year=1986, recent_since=None), "2046-01-01"),
        (facts(2000, last_no_show_at=NOW - 170 * DAY, recent_since=None), "2026-06-12"),
        (facts(2000, recent_since=NOW - WINDOW + 3 * DAY), "2026-06-05"),
        (facts(87), "2026-06-05"),
    ],
)
def test_review_comes_with_what_changes_first(known: Facts, day: str) -> None:
    assert review_at(known, NOW).astimezone(MOSCOW).date().isoformat() == day


def test_review_comes_when_a_band_is_reached() -> None:
    # 0.4966 at 179.1 days: the band is nearer than the step of 0.1.
    known = facts(178.5, recent_since=None)
    then = review_at(known, NOW).astimezone(MOSCOW)
    assert churn_risk(known, NOW).band is Band.LOW
    assert churn_risk(known, then).band is Band.MEDIUM
    assert then - NOW < 3 * DAY
    assert {least for least, _ in BAND_FROM} == {0.5, 0.7}


def test_midnight_that_the_clocks_skip_is_the_moment_they_go_on() -> None:
    # On 2018-11-04 the clocks of Sao Paulo went from 00:00 to 01:00.
    eve = datetime(2018, 11, 3, 12, tzinfo=zone_of("America/Sao_Paulo"))
    assert next_midnight(eve) == datetime(2018, 11, 4, 3, tzinfo=UTC)


def test_unknown_zone_is_taken_for_utc() -> None:
    assert zone_of("Mars/Olympus") is UTC
    assert zone_of(None) is UTC
