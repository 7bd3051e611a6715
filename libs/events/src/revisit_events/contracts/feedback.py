"""What patients say: surveys, reviews, complaints, and whether an action helped."""

from sys import float_info
from typing import Annotated, ClassVar, Literal

from msgspec import Meta
from pydantic import Field

from revisit_events.contracts.fields import (
    Code,
    EventData,
    Expected,
    Id,
    Number,
    Rating,
    Text,
    Time,
)

SurveyKind = Literal["csat", "nps", "ces", "servqual"]
_Hours = Annotated[
    float,
    Field(strict=True, ge=0, allow_inf_nan=False),
    Meta(ge=0, le=float_info.max),
    Expected("a number of hours, 0 or more"),
]


class _Answer(EventData, frozen=True, kw_only=True):
    """What both versions of an answer share."""

    OWNER: ClassVar[str] = "feedback"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement", "scoring")
    AGGREGATE_ID: ClassVar[str] = "answer_id"

    answer_id: Id
    """The answer to one question."""
    patient_id: Id | None = None
    """Who answered; none in an anonymous survey."""
    visit_id: Id | None = None
    """The visit asked about."""
    practitioner_id: Id | None = None
    """Whom the patient saw."""
    kind: SurveyKind
    """What the question measures."""
    score: Number
    """The answer on the question's scale; the higher, the better."""


class SurveyAnsweredV1(_Answer, frozen=True, kw_only=True):
    """A patient answered a survey, on the usual scale of its kind.

    Readers get it as version 2: which scale a score is on was an assumption of every reader, and
    clinics ask CSAT on 1 to 5 and on 1 to 10.
    """

    TYPE: ClassVar[str] = "survey.answered.v1"


class SurveyAnswered(_Answer, frozen=True, kw_only=True):
    """A patient answered a question of a survey."""

    TYPE: ClassVar[str] = "survey.answered.v2"

    scale_min: Number
    """The worst answer possible."""
    scale_max: Number
    """The best answer possible."""


class ReviewPosted(EventData, frozen=True, kw_only=True):
    """A review appeared; its text stays in feedback."""

    TYPE: ClassVar[str] = "review.posted.v1"
    OWNER: ClassVar[str] = "feedback"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement", "scoring")
    AGGREGATE_ID: ClassVar[str] = "review_id"

    review_id: Id
    """The review."""
    patient_id: Id | None = None
    """The author, if known for certain."""
    practitioner_id: Id | None = None
    """Whom it is about, if it says so."""
    platform: Code
    """Such as `yandex_maps, google_maps, prodoctorov, 2gis`."""
    rating_1_to_5: Rating
    """Stars, 1 to 5."""
    published_at: Time
    """When the platform published it."""
    detected_at: Time | None = None
    """When it was found; the clock for the answer runs from here."""
    sentiment: Code | None = None
    """`negative, neutral, positive`."""
    topics: tuple[Code, ...] | None = None
    """What it is about, such as `waiting, price, staff`."""


class ReviewSubmitted(ReviewPosted, frozen=True, kw_only=True):
    """What a collector of reviews sends to feedback: `review.posted` with its text.

    The additional fields never leave feedback: what is published is `ReviewPosted`.
    """

    text: Text | None = None
    """The review itself."""
    author: Text | None = None
    """Name shown by the platform."""
    url: Text | None = None
    """Where to read it."""


class _ComplaintEvent(EventData, frozen=True, kw_only=True):
    """What every event of a complaint names."""

    OWNER: ClassVar[str] = "feedback"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement", "scoring")
    AGGREGATE_ID: ClassVar[str] = "complaint_id"

    complaint_id: Id
    """The complaint."""
    patient_id: Id | None = None
    """Who complained, if known."""
    visit_id: Id | None = None
    """The visit it is about, if any."""
    cause_code: Code | None = None
    """Such as `waiting, staff, price, treatment, low_score`."""
    severity: Code
    """`low, medium, high`."""


class ComplaintOpened(_ComplaintEvent, frozen=True, kw_only=True):
    """A complaint, or a case from a low score, was opened."""

    TYPE: ClassVar[str] = "complaint.opened.v1"
    LIFECYCLE_RANK: ClassVar[int] = 10


class ComplaintResolved(_ComplaintEvent, frozen=True, kw_only=True):
    """The complaint was resolved."""

    TYPE: ClassVar[str] = "complaint.resolved.v1"
    LIFECYCLE_RANK: ClassVar[int] = 20

    hours_to_resolve: _Hours
    """Time from opening to resolution, hours."""


class ActionVerified(EventData, frozen=True, kw_only=True):
    """Whether a corrective action helped was checked."""

    TYPE: ClassVar[str] = "action.verified.v1"
    OWNER: ClassVar[str] = "feedback"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("scoring",)
    AGGREGATE_ID: ClassVar[str] = "action_id"

    action_id: Id
    """The corrective action."""
    verdict: Literal["worked", "did_not", "unclear"]
    """What the check said."""
    measured_effect: Number | None = None
    """Change of the measured indicator, in its own unit."""
