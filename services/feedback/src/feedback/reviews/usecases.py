"""Taking reviews in: what people wrote is sealed and stays here, a low rating opens a case."""

from collections.abc import Sequence

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
from feedback.complaints.usecases import open_complaints
from feedback.projections.store import clinics_by_id, erased_among
from feedback.reviews import store
from feedback.reviews.domain import opens_case
from feedback.reviews.store import Review
from feedback.sealing import seal
from revisit_chassis.crypto import Keyring
from revisit_events.contracts import ReviewPosted, ReviewSubmitted
from revisit_events.envelope import Event


async def take_reviews(
    connection: AsyncConnection, keyring: Keyring, events: Sequence[Event[ReviewPosted]]
) -> None:
    """Stores reviews and opens a case for each low one, once, whatever is edited later.

    Nothing that leads to an erased patient is stored.
    """
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
    clinics = await clinics_by_id(connection, {row.clinic_id for row in rows})
    live_from = {clinic_id: clinic.live_from for clinic_id, clinic in clinics.items()}
    await open_complaints(
        connection,
        [
            _case(row)
            for row in rows
            if opens_case(row.rating_1_to_5, row.published_at, live_from.get(row.clinic_id))
        ],
    )


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


def _case(row: Review) -> Complaint:
    return Complaint(
        clinic_id=row.clinic_id,
        complaint_id=case_id(row.clinic_id, Origin.REVIEW, row.review_id),
        origin=Origin.REVIEW,
        origin_id=row.review_id,
        patient_id=row.patient_id,
        visit_id=None,
        practitioner_id=row.practitioner_id,
        severity=severity_of_rating(row.rating_1_to_5),
        cause_code=UNCLASSIFIED,
        # The clock runs from the moment the clinic could know.
        opened_at=row.detected_at,
        due_at=row.detected_at + DUE_AFTER,
        rule_version=REVIEW_RULE_VERSION,
    )
