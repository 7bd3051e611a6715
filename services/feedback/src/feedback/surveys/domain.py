"""What a survey asks, what an answer is, and when an answer opens a case.

Pure values and decisions. The invariant: a question is answered once, and what was answered stays.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from revisit_chassis.problem import DomainError

POST_VISIT = "post-visit"
"""Key of the survey behind the link of a follow-up message."""

SURVEY_PURPOSE = "survey"
"""Purpose of the links that feedback serves."""

LANGUAGES = ("ru", "en")
CSAT_SCALE = (1, 5)
NPS_SCALE = (0, 10)
COMMENT_MAX = 2000


class SurveyNotFoundError(DomainError):
    """There is no survey with this key."""

    slug = "survey-not-found"


@dataclass(frozen=True, slots=True)
class CaseRule:
    """When answers open a case: versioned, so that a case says which rule opened it.

    One low answer is enough, and a survey opens one case at most.
    """

    csat_at_most: int = 2
    nps_at_most: int = 6


@dataclass(frozen=True, slots=True)
class Wording:
    """The questions of a survey in one language."""

    title: str
    csat_question: str
    nps_question: str
    comment_label: str


DEFAULT_WORDING: Mapping[str, Wording] = {
    "ru": Wording(
        title="Как прошёл ваш визит?",
        csat_question="Насколько вы довольны визитом?",
        nps_question="Насколько вероятно, что вы порекомендуете нас близким?",
        comment_label="Что нам стоит улучшить или сохранить? (по желанию)",
    ),
    "en": Wording(
        title="How was your visit?",
        csat_question="How satisfied are you with your visit?",
        nps_question="How likely are you to recommend us to people close to you?",
        comment_label="What should we improve, or keep as it is? (optional)",
    ),
}


@dataclass(frozen=True, slots=True)
class Survey:
    """A survey of a clinic; version 0 is the one every clinic starts with."""

    key: str = POST_VISIT
    version: int = 0
    wording: Mapping[str, Wording] = field(default_factory=lambda: DEFAULT_WORDING)
    case_rule: CaseRule = field(default_factory=CaseRule)

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages it can be shown in, the preferred one first."""
        return tuple(language for language in LANGUAGES if language in self.wording)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a patient answered; None where a question was left out."""

    csat: int | None = None
    nps: int | None = None
    comment: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was answered at all."""
        return self.csat is None and self.nps is None and self.comment is None


@dataclass(frozen=True, slots=True)
class Link:
    """A link that engagement sent to a patient."""

    clinic_id: uuid.UUID
    link_id: uuid.UUID
    patient_id: uuid.UUID
    visit_id: uuid.UUID
    language: str | None
    expires_at: datetime
    given: Answers | None
    """What was answered behind it so far; None for nothing."""
    is_erased: bool


class LinkState(StrEnum):
    """What the page behind a link shows."""

    OPEN = "open"
    PARTIAL = "partial"
    """Answered, with a question of the scales left open that can still be answered."""
    ANSWERED = "answered"
    GONE = "gone"


def state_of(link: Link, now: datetime) -> LinkState:
    """What a link is good for at a moment; an answered one says thanks even past its expiry."""
    if link.is_erased:
        return LinkState.GONE
    is_live = now < link.expires_at
    if link.given is None:
        return LinkState.OPEN if is_live else LinkState.GONE
    if is_live and (link.given.csat is None or link.given.nps is None):
        return LinkState.PARTIAL
    return LinkState.ANSWERED


def additions(given: Answers, wanted: Answers) -> tuple[Answers, bool]:
    """What of an answer is new to a link, and whether some of it contradicts what stands.

    >>> additions(Answers(csat=2), Answers(csat=5, nps=3))
    (Answers(csat=None, nps=3, comment=None), True)
    """
    new = Answers(
        csat=wanted.csat if given.csat is None else None,
        nps=wanted.nps if given.nps is None else None,
        comment=wanted.comment if given.comment is None else None,
    )
    pairs = (
        (given.csat, wanted.csat),
        (given.nps, wanted.nps),
        (given.comment, wanted.comment),
    )
    contradicts = any(
        old is not None and other is not None and old != other for old, other in pairs
    )
    return new, contradicts


def together(given: Answers, new: Answers) -> Answers:
    """All that was answered behind a link."""
    return Answers(
        csat=new.csat if given.csat is None else given.csat,
        nps=new.nps if given.nps is None else given.nps,
        comment=given.comment or new.comment,
    )


class AnswerFault(StrEnum):
    """Why a form was not accepted; nothing of it is lost on the page."""

    EMPTY = "empty"
    OUT_OF_SCALE = "out_of_scale"
    COMMENT_TOO_LONG = "comment_too_long"


def answers_from_form(form: Mapping[str, str]) -> Answers | AnswerFault:
    """Reads the fields of the page's form: `csat`, `nps`, `comment`, each may be left out."""
    scores: dict[str, int | None] = {}
    for name, (low, high) in (("csat", CSAT_SCALE), ("nps", NPS_SCALE)):
        text = form.get(name, "")
        allowed = {str(score): score for score in range(low, high + 1)}
        if text and text not in allowed:
            return AnswerFault.OUT_OF_SCALE
        scores[name] = allowed.get(text)
    # Browsers send line ends as CR LF and count them as one character.
    comment = form.get("comment", "").replace("\r\n", "\n").strip()
    if len(comment) > COMMENT_MAX:
        return AnswerFault.COMMENT_TOO_LONG
    answers = Answers(scores["csat"], scores["nps"], comment or None)
    return AnswerFault.EMPTY if answers.is_empty else answers


def is_low(answers: Answers, rule: CaseRule) -> bool:
    """Whether the answers open a case."""
    return (answers.csat is not None and answers.csat <= rule.csat_at_most) or (
        answers.nps is not None and answers.nps <= rule.nps_at_most
    )


def page_language(*wanted: str | None, spoken: Sequence[str] = LANGUAGES) -> str:
    """The first of the wanted languages that is spoken; the preferred one when none is.

    >>> page_language("de", "en-GB"), page_language("de"), page_language("ru", spoken=("en",))
    ('en', 'ru', 'en')
    """
    bases = (language.split("-")[0].lower() for language in wanted if language)
    return next((base for base in bases if base in spoken), spoken[0])


def response_id(clinic_id: uuid.UUID, link_id: uuid.UUID) -> uuid.UUID:
    """Id of the only response a link can have."""
    return uuid.uuid5(clinic_id, f"survey-response:{link_id}")


def answer_id(link: Link, kind: str) -> uuid.UUID:
    """Id of the answer to one question, and of the event that tells of it."""
    return uuid.uuid5(link.clinic_id, f"survey-answer:{link.link_id}:{kind}")
