"""HTTP resource of reviews; they come in through `POST /v1/events`."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel

from feedback.positions import time_and_id
from feedback.reviews import store
from feedback.reviews.store import Review
from feedback.sealing import unseal
from revisit_chassis.crypto import Keyring
from revisit_chassis.http import ClinicConnection, ClinicId, require
from revisit_chassis.pages import Cursor, Limit, Page, encode_cursor
from revisit_chassis.tokens import Principal
from revisit_events.contracts.fields import NO_NUL, Time

router = APIRouter(tags=["reviews"])
Reader = Annotated[Principal, Depends(require("reviews:read"))]


class ReviewView(BaseModel):
    """A review; text, author and address are missing once its author was erased."""

    review_id: UUID
    platform: str
    rating_1_to_5: int
    published_at: datetime
    detected_at: datetime
    patient_id: UUID | None
    practitioner_id: UUID | None
    text: str | None
    author: str | None
    url: str | None


@router.get("/v1/reviews")
async def list_reviews(
    *,
    request: Request,
    connection: ClinicConnection,
    clinic_id: ClinicId,
    _: Reader,
    platform: Annotated[str, Query(min_length=1, max_length=100, pattern=NO_NUL)] | None = None,
    rating_at_most: Annotated[int, Query(ge=1, le=5)] | None = None,
    published_from: Time | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[ReviewView]:
    """Reviews, the latest published first."""
    wanted = store.ReviewFilter(platform, rating_at_most, published_from)
    after = time_and_id(cursor) if cursor else None
    found = await store.page(connection, clinic_id, wanted, after=after, limit=limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    keyring: Keyring = request.app.state.keyring
    return Page(
        items=[_view(keyring, row) for row in found[:limit]],
        next=encode_cursor((last.published_at, last.review_id)) if last else None,
    )


def _view(keyring: Keyring, row: Review) -> ReviewView:
    def text(sealed: bytes | None, name: str) -> str | None:
        return unseal(keyring, sealed, row.clinic_id, row.review_id, name)

    return ReviewView(
        review_id=row.review_id,
        platform=row.platform,
        rating_1_to_5=row.rating_1_to_5,
        published_at=row.published_at,
        detected_at=row.detected_at,
        patient_id=row.patient_id,
        practitioner_id=row.practitioner_id,
        text=text(row.text, "text"),
        author=text(row.author, "author"),
        url=text(row.url, "url"),
    )
