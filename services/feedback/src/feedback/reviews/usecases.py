"""Taking reviews in: what people wrote is sealed and stays here, a low rating opens a case."""

import uuid
from collections.abc import Collection, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.complaints.domain import (
    DUE_AFTER,
    REVIEW_RULE_VERSION,
    UNCLASSIFIED,
    Complaint,
    Origin,
    case_id,
    severity_of_rating,
)
from feedback.complaints.usecases import keep_complaints
from feedback.projections.store import erased_among, hold_clinics
from feedback.reviews import store
from feedback.reviews.domain import is_low, opens_case
from feedback.reviews.store import LowReview, Review
from feedback.sealing import seal
from revisit_chassis.crypto import Keyring
from revisit_events.contracts import ReviewPosted, ReviewSubmitted
from revisit_events.envelope import Event


async def take_reviews(
    connection: AsyncConnection, keyring: Keyring, events: Sequence[Event[ReviewPosted]]
) -> None:
    """Stores reviews and opens a case for each that was ever low, once, whatever is edited later.

    How grave the case is follows the review as it stands, and the clock runs from its first low state,
    so that neither depends on the order in which states arrive. Nothing that leads to an erased patient
    is stored.
    """
    await hold_clinics(connection, {event.clinic_id for event in events})
    erased = await erased_among(
        connection,
        {(event.clinic_id, event.data.patient_id) for event in events if event.data.patient_id},
    )
    rows = [
        _review(
            keyring,
            event,
            is_erased=(event.clinic_id, event.data.patient_id) in erased,
        )
        for event in events
    ]
    await store.upsert_reviews(connection, rows)
    await store.note_low(
        connection,
        [
            (row.clinic_id, row.review_id, row.detected_at)
            for row in rows
            if is_low(row.rating_1_to_5)
        ],
    )
    low = await store.low_among(connection, {(row.clinic_id, row.review_id) for row in rows})
    await _keep_cases(connection, low)


async def open_cases_of_clinics(
    connection: AsyncConnection, clinic_ids: Collection[uuid.UUID]
) -> None:
    """Opens the cases of reviews that came before their clinic was known, or its `live_from`."""
    await _keep_cases(connection, await store.low_without_case(connection, clinic_ids))


async def _keep_cases(connection: AsyncConnection, reviews: Sequence[LowReview]) -> None:
    cases = [_case(review) for review in reviews if opens_case(review.standing)]
    await keep_complaints(connection, cases)


def _review(keyring: Keyring, event: Event[ReviewPosted], *, is_erased: bool) -> Review:
    data = event.data
    # A collector that has only what is published may send a review without its text.
    written = data if isinstance(data, ReviewSubmitted) and not is_erased else None

    def sealed(name: str) -> bytes | None:
        text = getattr(written, name, None)
        return seal(keyring, text, event.clinic_id, data.review_id, name)

    return Review(
        clinic_id=event.clinic_id,
        review_id=data.review_id,
        platform=data.platform,
        rating_1_to_5=data.rating_1_to_5,
        published_at=data.published_at,
        detected_at=data.detected_at or event.time,
        patient_id=data.patient_id,
        practitioner_id=data.practitioner_id,
        text=sealed("text"),
        author=sealed("author"),
        url=sealed("url"),
        precedence=event.precedence,
    )


def _case(review: LowReview) -> Complaint:
    # The clock runs from the moment the clinic could know.
    opened_at = review.standing.low_detected_at or review.standing.published_at
    return Complaint(
        clinic_id=review.clinic_id,
        complaint_id=case_id(review.clinic_id, Origin.REVIEW, review.review_id),
        origin=Origin.REVIEW,
        origin_id=review.review_id,
        patient_id=review.patient_id,
        visit_id=None,
        practitioner_id=review.practitioner_id,
        severity=severity_of_rating(review.rating_1_to_5),
        cause_code=UNCLASSIFIED,
        opened_at=opened_at,
        due_at=opened_at + DUE_AFTER,
        rule_version=REVIEW_RULE_VERSION,
    )
