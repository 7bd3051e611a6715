"""Surveys and complaints as pure values."""

import doctest
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

import feedback.complaints.domain
import feedback.surveys.domain
from feedback.complaints.domain import (
    Complaint,
    ComplaintResolvedError,
    Origin,
    Severity,
    case_id,
    classified,
    resolved,
    severity_of_answers,
    severity_of_rating,
)
from feedback.reviews.domain import Standing, opens_case
from feedback.reviews.domain import is_low as is_low_rating
from feedback.surveys.domain import (
    COMMENT_MAX,
    DEFAULT_WORDING,
    LANGUAGES,
    AnswerFault,
    Answers,
    CaseRule,
    Link,
    LinkState,
    additions,
    answer_id,
    answers_from_form,
    is_low,
    page_language,
    response_id,
    state_of,
    together,
)
from feedback.surveys.texts import TEXTS

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)
LINK = Link(
    clinic_id=uuid.UUID(int=1),
    link_id=uuid.UUID(int=2),
    patient_id=uuid.UUID(int=3),
    visit_id=uuid.UUID(int=4),
    language="ru",
    expires_at=NOW + timedelta(days=14),
    given=None,
    is_erased=False,
)
CASE = Complaint(
    clinic_id=LINK.clinic_id,
    complaint_id=uuid.UUID(int=5),
    origin=Origin.SURVEY,
    origin_id=uuid.UUID(int=6),
    patient_id=LINK.patient_id,
    visit_id=LINK.visit_id,
    practitioner_id=None,
    severity=Severity.LOW,
    cause_code="unclassified",
    opened_at=NOW,
    due_at=NOW + timedelta(hours=72),
)


def test_link_is_open_until_it_expires() -> None:
    assert state_of(LINK, LINK.expires_at - timedelta(microseconds=1)) is LinkState.OPEN
    assert state_of(LINK, LINK.expires_at) is LinkState.GONE


def test_answered_link_says_thanks_even_past_its_expiry() -> None:
    for answers in (Answers(csat=5, nps=9), Answers(comment="x")):
        assert state_of(replace(LINK, given=answers), LINK.expires_at) is LinkState.ANSWERED


def test_question_left_out_can_be_answered_until_the_link_expires() -> None:
    assert state_of(replace(LINK, given=Answers(nps=9)), NOW) is LinkState.PARTIAL
    assert state_of(replace(LINK, given=Answers(comment="x")), NOW) is LinkState.PARTIAL
    assert state_of(replace(LINK, given=Answers(csat=5, nps=9)), NOW) is LinkState.ANSWERED


def test_what_was_answered_stands_and_gaps_are_filled() -> None:
    given = Answers(csat=2, comment="x")
    assert additions(given, Answers(csat=2, nps=3, comment="x")) == (Answers(nps=3), False)
    assert additions(given, Answers(csat=4)) == (Answers(), True)
    assert additions(given, Answers(comment="y")) == (Answers(), True)
    assert together(given, Answers(nps=3)) == Answers(csat=2, nps=3, comment="x")


def test_doctests_of_the_rules_hold() -> None:
    for module in (feedback.surveys.domain, feedback.complaints.domain):
        found = doctest.testmod(module)
        assert (found.failed, found.attempted > 0) == (0, True)


def test_erased_patients_link_is_gone_answered_or_not() -> None:
    for answers in (None, Answers(csat=5)):
        erased = replace(LINK, is_erased=True, given=answers)
        assert state_of(erased, NOW) is LinkState.GONE


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"csat": "4", "nps": "9"}, Answers(4, 9)),
        ({"csat": "4"}, Answers(csat=4)),
        ({"nps": "0"}, Answers(nps=0)),
        ({"nps": "10", "csat": ""}, Answers(nps=10)),
        ({"comment": " two\r\nlines "}, Answers(comment="two\nlines")),
        ({"csat": "5", "unknown": "x"}, Answers(csat=5)),
        ({}, AnswerFault.EMPTY),
        ({"csat": "", "nps": "", "comment": "  \r\n "}, AnswerFault.EMPTY),
        ({"csat": "0"}, AnswerFault.OUT_OF_SCALE),
        ({"csat": "6"}, AnswerFault.OUT_OF_SCALE),
        ({"nps": "11"}, AnswerFault.OUT_OF_SCALE),
        ({"nps": "-1"}, AnswerFault.OUT_OF_SCALE),
        ({"nps": "07"}, AnswerFault.OUT_OF_SCALE),
        ({"csat": "٣"}, AnswerFault.OUT_OF_SCALE),
        ({"comment": "я" * (COMMENT_MAX + 1)}, AnswerFault.COMMENT_TOO_LONG),
        ({"comment": "я" * COMMENT_MAX}, Answers(comment="я" * COMMENT_MAX)),
    ],
)
def test_form_is_read(form: dict[str, str], expected: Answers | AnswerFault) -> None:
    assert answers_from_form(form) == expected


@given(st.dictionaries(st.sampled_from(["csat", "nps", "comment", "x"]), st.text()))
def test_any_form_gives_answers_in_scale_or_a_fault(form: dict[str, str]) -> None:
    found = answers_from_form(form)
    if isinstance(found, Answers):
        assert not found.is_empty
        assert found.csat is None or 1 <= found.csat <= 5
        assert found.nps is None or 0 <= found.nps <= 10


@given(st.none() | st.integers(1, 5), st.none() | st.integers(0, 10))
def test_one_low_answer_is_enough(csat: int | None, nps: int | None) -> None:
    expected = (csat or 5) <= 2 or (10 if nps is None else nps) <= 6
    assert is_low(Answers(csat, nps), CaseRule()) is expected


def test_limits_can_be_switched_off() -> None:
    assert not is_low(Answers(1, 0), CaseRule(csat_at_most=0, nps_at_most=-1))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(("en",), "en"), ((None, "en-GB"), "en"), (("de", "ru"), "ru"), ((), "ru"), (("de",), "ru")],
)
def test_page_speaks_the_first_language_it_knows(
    wanted: tuple[str | None, ...], expected: str
) -> None:
    assert page_language(*wanted) == expected


def test_every_language_has_all_words() -> None:
    assert set(TEXTS) == set(DEFAULT_WORDING) == set(LANGUAGES)
    for texts in TEXTS.values():
        assert set(texts.faults) == set(AnswerFault)


def test_ids_follow_from_the_link_alone() -> None:
    later = replace(LINK, given=Answers(csat=1), language="en")
    assert answer_id(LINK, "csat") == answer_id(later, "csat")
    response = response_id(LINK.clinic_id, LINK.link_id)
    ids = {response, answer_id(LINK, "csat"), answer_id(LINK, "nps")}
    assert len(ids) == 3
    other_clinic = replace(LINK, clinic_id=uuid.UUID(int=9))
    assert answer_id(other_clinic, "csat") not in ids
    assert case_id(LINK.clinic_id, Origin.SURVEY, LINK.link_id) != case_id(
        LINK.clinic_id, Origin.REVIEW, LINK.link_id
    )


def test_worst_answer_decides_the_severity() -> None:
    assert severity_of_answers(1, 10) is Severity.HIGH
    assert severity_of_answers(5, 0) is Severity.HIGH
    assert severity_of_answers(2, None) is Severity.MEDIUM
    assert severity_of_answers(None, 3) is Severity.MEDIUM
    assert severity_of_answers(3, 6) is Severity.LOW
    assert severity_of_rating(1) is Severity.HIGH
    assert severity_of_rating(2) is Severity.MEDIUM


def test_review_that_was_ever_low_opens_a_case_unless_it_is_history() -> None:
    assert [is_low_rating(rating) for rating in (1, 2, 3)] == [True, True, False]
    low = Standing(published_at=NOW, low_detected_at=NOW, live_from=NOW)
    assert opens_case(low)
    assert not opens_case(replace(low, low_detected_at=None))
    assert not opens_case(replace(low, live_from=NOW + timedelta(seconds=1)))


def test_review_of_an_unknown_clinic_waits() -> None:
    assert not opens_case(Standing(published_at=NOW, low_detected_at=NOW, live_from=None))


def test_complaint_is_resolved_once() -> None:
    done = resolved(CASE, "apologised", None, by="olga", now=NOW + timedelta(hours=30))
    assert done.hours_to_resolve == 30
    assert not done.is_overdue(NOW + timedelta(days=9))
    with pytest.raises(ComplaintResolvedError):
        resolved(done, "refunded", None, by="olga", now=NOW)


def test_complaint_is_overdue_from_its_due_time() -> None:
    assert not CASE.is_overdue(CASE.due_at - timedelta(seconds=1))
    assert CASE.is_overdue(CASE.due_at)


def test_resolution_before_the_opening_takes_no_negative_time() -> None:
    done = resolved(CASE, "apologised", None, by="olga", now=NOW - timedelta(hours=1))
    assert done.hours_to_resolve == 0


def test_latest_cause_stands_and_causes_are_counted() -> None:
    twice = classified(classified(CASE, "waiting"), "staff")
    assert (twice.cause_code, twice.causes, twice.version) == ("staff", 2, 3)
