"""Rows of reviews."""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.reviews.domain import Standing
from feedback.reviews.tables import review


@dataclass(frozen=True, slots=True)
class Review:
    """A review of a public platform; what people wrote is sealed."""

    clinic_id: uuid.UUID
    review_id: uuid.UUID
    platform: str
    rating_1_to_5: int
    published_at: datetime
    detected_at: datetime
    patient_id: uuid.UUID | None
    practitioner_id: uuid.UUID | None
    text: bytes | None
    author: bytes | None
    url: bytes | None
    precedence: str


@dataclass(frozen=True, slots=True)
class ReviewFilter:
    """Which reviews of a clinic are wanted; None leaves a question open."""

    platform: str | None = None
    rating_at_most: int | None = None
    published_from: datetime | None = None


_UPSERT = sa.text("""
    INSERT INTO review AS t (
        clinic_id, review_id, platform, rating_1_to_5, published_at, detected_at,
        patient_id, practitioner_id, text, author, url, precedence
    )
    SELECT DISTINCT ON (clinic_id, review_id) *
    FROM unnest(
        CAST(:clinic_id AS uuid[]), CAST(:review_id AS uuid[]), CAST(:platform AS text[]),
        CAST(:rating_1_to_5 AS smallint[]), CAST(:published_at AS timestamptz[]),
        CAST(:detected_at AS timestamptz[]), CAST(:patient_id AS uuid[]),
        CAST(:practitioner_id AS uuid[]), CAST(:text AS bytea[]), CAST(:author AS bytea[]),
        CAST(:url AS bytea[]), CAST(:precedence AS text[])
    ) AS u (
        clinic_id, review_id, platform, rating_1_to_5, published_at, detected_at,
        patient_id, practitioner_id, text, author, url, precedence
    )
    ORDER BY clinic_id, review_id, precedence COLLATE "C" DESC
    ON CONFLICT (clinic_id, review_id) DO UPDATE
    SET platform = excluded.platform, rating_1_to_5 = excluded.rating_1_to_5,
        published_at = excluded.published_at, detected_at = excluded.detected_at,
        patient_id = excluded.patient_id, practitioner_id = excluded.practitioner_id,
        text = excluded.text, author = excluded.author, url = excluded.url,
        precedence = excluded.precedence
    WHERE excluded.precedence > t.precedence
""")


async def upsert_reviews(connection: AsyncConnection, reviews: Sequence[Review]) -> None:
    """Stores reviews; of several states of one the greatest precedence stands."""
    await connection.execute(
        _UPSERT, {f.name: [getattr(row, f.name) for row in reviews] for f in fields(Review)}
    )


async def note_low(
    connection: AsyncConnection, states: Sequence[tuple[uuid.UUID, uuid.UUID, datetime]]
) -> None:
    """Remembers low states of stored reviews: clinic, review, and when the state was detected."""
    if not states:
        return
    await connection.execute(
        sa.text("""
            UPDATE review AS t SET low_detected_at = least(t.low_detected_at, u.at)
            FROM (
                SELECT clinic_id, review_id, min(at) AS at
                FROM unnest(
                    CAST(:clinics AS uuid[]), CAST(:reviews AS uuid[]), CAST(:times AS timestamptz[])
                ) AS s (clinic_id, review_id, at)
                GROUP BY clinic_id, review_id
            ) AS u
            WHERE t.clinic_id = u.clinic_id AND t.review_id = u.review_id
        """),
        {
            "clinics": [clinic_id for clinic_id, _, _ in states],
            "reviews": [review_id for _, review_id, _ in states],
            "times": [at for _, _, at in states],
        },
    )


@dataclass(frozen=True, slots=True)
class LowReview:
    """A review that was ever low, as far as its case needs it."""

    clinic_id: uuid.UUID
    review_id: uuid.UUID
    patient_id: uuid.UUID | None
    practitioner_id: uuid.UUID | None
    rating_1_to_5: int
    standing: Standing


_LOW = """
    SELECT r.clinic_id, review_id, patient_id, practitioner_id, rating_1_to_5, published_at,
        low_detected_at, live_from
    FROM review AS r LEFT JOIN clinic AS c ON c.clinic_id = r.clinic_id
    WHERE low_detected_at IS NOT NULL
"""
_LOW_AMONG = sa.text(f"""
    {_LOW} AND (r.clinic_id, review_id) IN (
        SELECT * FROM unnest(CAST(:clinics AS uuid[]), CAST(:reviews AS uuid[]))
    )
""")  # noqa: S608  (constants)
_LOW_OF_CLINICS = sa.text(f"""
    {_LOW} AND r.clinic_id = ANY (CAST(:clinics AS uuid[])) AND NOT EXISTS (
        SELECT FROM complaint AS k
        WHERE k.clinic_id = r.clinic_id AND k.origin = 'review' AND k.origin_id = review_id
    )
""")


async def low_among(
    connection: AsyncConnection, keys: Collection[tuple[uuid.UUID, uuid.UUID]]
) -> list[LowReview]:
    """Those of the reviews (clinic, review) that were ever low."""
    ordered = sorted(keys)
    values = {"clinics": [key[0] for key in ordered], "reviews": [key[1] for key in ordered]}
    return [_low_from_row(row) for row in await connection.execute(_LOW_AMONG, values)]


async def low_without_case(
    connection: AsyncConnection, clinic_ids: Collection[uuid.UUID]
) -> list[LowReview]:
    """Reviews of the clinics that were ever low and have no case."""
    rows = await connection.execute(_LOW_OF_CLINICS, {"clinics": sorted(clinic_ids)})
    return [_low_from_row(row) for row in rows]


def _low_from_row(row: sa.Row[tuple[object, ...]]) -> LowReview:
    return LowReview(
        clinic_id=row.clinic_id,
        review_id=row.review_id,
        patient_id=row.patient_id,
        practitioner_id=row.practitioner_id,
        rating_1_to_5=row.rating_1_to_5,
        standing=Standing(row.published_at, row.low_detected_at, row.live_from),
    )


async def page(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    wanted: ReviewFilter,
    *,
    after: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[Review]:
    """Reviews, the latest published first, after a position."""
    query = sa.select(review).where(review.c.clinic_id == clinic_id)
    if wanted.platform is not None:
        query = query.where(review.c.platform == wanted.platform)
    if wanted.rating_at_most is not None:
        query = query.where(review.c.rating_1_to_5 <= wanted.rating_at_most)
    if wanted.published_from is not None:
        query = query.where(review.c.published_at >= wanted.published_from)
    if after is not None:
        query = query.where(
            sa.tuple_(review.c.published_at, review.c.review_id) < sa.tuple_(*after)
        )
    rows = await connection.execute(
        query.order_by(review.c.published_at.desc(), review.c.review_id.desc()).limit(limit)
    )
    return [Review(**{f.name: getattr(row, f.name) for f in fields(Review)}) for row in rows]


async def forget_texts(
    connection: AsyncConnection, pairs: Sequence[tuple[uuid.UUID, uuid.UUID]]
) -> None:
    """Removes what leads to erased patients who were known as authors; the rating stays."""
    await connection.execute(
        sa.text("""
            UPDATE review AS t SET text = NULL, author = NULL, url = NULL
            FROM unnest(CAST(:clinics AS uuid[]), CAST(:patients AS uuid[]))
                AS u (clinic_id, patient_id)
            WHERE t.clinic_id = u.clinic_id AND t.patient_id = u.patient_id
        """),
        {
            "clinics": [clinic_id for clinic_id, _ in pairs],
            "patients": [patient_id for _, patient_id in pairs],
        },
    )
