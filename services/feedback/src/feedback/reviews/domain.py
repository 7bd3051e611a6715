"""When a review opens a case."""

from dataclasses import dataclass
from datetime import datetime

from feedback.complaints.domain import LOW_REVIEW_AT_MOST


@dataclass(frozen=True, slots=True)
class Standing:
    """What decides over a review's case, none of it by the order of arrival."""

    published_at: datetime
    low_detected_at: datetime | None
    """When the clinic could first know of a low state of it; None where it was never low."""
    live_from: datetime | None
    """Of the clinic; None while it is unknown."""


def is_low(rating_1_to_5: int) -> bool:
    """Whether a rating is low."""
    return rating_1_to_5 <= LOW_REVIEW_AT_MOST


def opens_case(review: Standing) -> bool:
    """Whether a review opens a case: it was ever low, and it is no imported history.

    Reviews published before the clinic's `live_from` are the baseline; nobody owes them an answer. Of
    an unknown clinic nothing is known to be due; its registration opens what is.
    """
    if review.low_detected_at is None or review.live_from is None:
        return False
    return review.published_at >= review.live_from
