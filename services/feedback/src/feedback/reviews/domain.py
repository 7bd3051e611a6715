"""When a review opens a case."""

from datetime import datetime

from feedback.complaints.domain import LOW_REVIEW_AT_MOST


def opens_case(rating_1_to_5: int, published_at: datetime, live_from: datetime | None) -> bool:
    """Whether a review opens a case: it is low, and no imported history.

    Reviews published before the clinic's `live_from` are the baseline; nobody owes them an answer.
    """
    is_history = live_from is not None and published_at < live_from
    return rating_1_to_5 <= LOW_REVIEW_AT_MOST and not is_history
