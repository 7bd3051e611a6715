"""Rows of complaints and causes."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.complaints.domain import Complaint, Origin, Severity
from feedback.complaints.tables import complaint, complaint_cause
from feedback.projections.tables import visit

# The visit says whom it is about, whether it came before the complaint or after it.
_ALL: sa.Select[tuple[object, ...]] = sa.select(
    *(column for column in complaint.c if column.name != "practitioner_id"),
    sa.func.coalesce(visit.c.practitioner_id, complaint.c.practitioner_id).label("practitioner_id"),
).select_from(
    complaint.outerjoin(
        visit,
        sa.and_(
            visit.c.clinic_id == complaint.c.clinic_id, visit.c.visit_id == complaint.c.visit_id
        ),
    )
)


@dataclass(frozen=True, slots=True)
class ComplaintFilter:
    """Which complaints of a clinic are wanted; None leaves a question open."""

    is_open: bool | None = None
    severity: str | None = None
    patient_id: uuid.UUID | None = None
    origin: str | None = None


async def insert_complaints(
    connection: AsyncConnection, rows: Sequence[Complaint]
) -> set[tuple[uuid.UUID, uuid.UUID]]:
    """Inserts the complaints that are not there yet and gives their keys."""
    if not rows:
        return set()
    inserted = await connection.execute(
        insert(complaint)
        .values([{f.name: getattr(row, f.name) for f in fields(row)} for row in rows])
        .on_conflict_do_nothing()
        .returning(complaint.c.clinic_id, complaint.c.complaint_id)
    )
    return {(row.clinic_id, row.complaint_id) for row in inserted}


async def follow_origin(connection: AsyncConnection, rows: Sequence[Complaint]) -> None:
    """Brings complaints up to what they came from: an edited review, a survey answered in two steps."""
    if not rows:
        return
    await connection.execute(
        sa.text("""
            UPDATE complaint AS t SET severity = u.severity, practitioner_id = u.practitioner_id,
                opened_at = least(t.opened_at, u.opened_at), due_at = least(t.due_at, u.due_at),
                text = coalesce(t.text, u.text)
            FROM unnest(
                CAST(:clinic_id AS uuid[]), CAST(:complaint_id AS uuid[]), CAST(:severity AS text[]),
                CAST(:practitioner_id AS uuid[]), CAST(:opened_at AS timestamptz[]),
                CAST(:due_at AS timestamptz[]), CAST(:text AS bytea[])
            ) AS u (clinic_id, complaint_id, severity, practitioner_id, opened_at, due_at, text)
            WHERE t.clinic_id = u.clinic_id AND t.complaint_id = u.complaint_id
        """),
        {
            name: [getattr(row, name) for row in rows]
            for name in (
                "clinic_id",
                "complaint_id",
                "severity",
                "practitioner_id",
                "opened_at",
                "due_at",
                "text",
            )
        },
    )


async def load(
    connection: AsyncConnection, clinic_id: uuid.UUID, complaint_id: uuid.UUID
) -> Complaint | None:
    """A complaint without a lock."""
    row = (await connection.execute(_one(clinic_id, complaint_id))).one_or_none()
    return None if row is None else _complaint_from_row(row)


async def lock(
    connection: AsyncConnection, clinic_id: uuid.UUID, complaint_id: uuid.UUID
) -> Complaint | None:
    """A complaint that nobody else can change until this transaction ends."""
    statement = _one(clinic_id, complaint_id).with_for_update(of=complaint)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _complaint_from_row(row)


async def save(connection: AsyncConnection, changed: Complaint) -> None:
    """Stores what a cause or a resolution changed."""
    await connection.execute(
        sa.update(complaint)
        .where(
            complaint.c.clinic_id == changed.clinic_id,
            complaint.c.complaint_id == changed.complaint_id,
        )
        .values(
            cause_code=changed.cause_code,
            causes=changed.causes,
            resolution_code=changed.resolution_code,
            resolution_text=changed.resolution_text,
            resolved_at=changed.resolved_at,
            resolved_by=changed.resolved_by,
            version=changed.version,
        )
    )


async def insert_cause(
    connection: AsyncConnection, changed: Complaint, *, recorded_at: datetime, recorded_by: str
) -> None:
    """Records the cause that the complaint's counter has just numbered."""
    await connection.execute(
        sa.insert(complaint_cause).values(
            clinic_id=changed.clinic_id,
            complaint_id=changed.complaint_id,
            number=changed.causes,
            cause_code=changed.cause_code,
            recorded_at=recorded_at,
            recorded_by=recorded_by,
        )
    )


async def page(
    connection: AsyncConnection,
    clinic_id: uuid.UUID,
    wanted: ComplaintFilter,
    *,
    after: tuple[datetime, uuid.UUID] | None,
    limit: int,
) -> list[Complaint]:
    """Complaints in the order they were opened, after a position."""
    query = _ALL.where(complaint.c.clinic_id == clinic_id)
    if wanted.is_open is not None:
        resolved_at = complaint.c.resolved_at
        query = query.where(resolved_at.is_(None) if wanted.is_open else resolved_at.is_not(None))
    if wanted.severity is not None:
        query = query.where(complaint.c.severity == wanted.severity)
    if wanted.patient_id is not None:
        query = query.where(complaint.c.patient_id == wanted.patient_id)
    if wanted.origin is not None:
        query = query.where(complaint.c.origin == wanted.origin)
    position = (complaint.c.opened_at, complaint.c.complaint_id)
    if after is not None:
        query = query.where(sa.tuple_(*position) > sa.tuple_(*after))
    rows = await connection.execute(query.order_by(*position).limit(limit))
    return [_complaint_from_row(row) for row in rows]


async def forget_texts(
    connection: AsyncConnection, pairs: Sequence[tuple[uuid.UUID, uuid.UUID]]
) -> None:
    """Removes what erased patients wrote and what was written about them."""
    await connection.execute(
        sa.text("""
            UPDATE complaint AS t SET text = NULL, resolution_text = NULL
            FROM unnest(CAST(:clinics AS uuid[]), CAST(:patients AS uuid[]))
                AS u (clinic_id, patient_id)
            WHERE t.clinic_id = u.clinic_id AND t.patient_id = u.patient_id
        """),
        {
            "clinics": [clinic_id for clinic_id, _ in pairs],
            "patients": [patient_id for _, patient_id in pairs],
        },
    )


def _one(clinic_id: uuid.UUID, complaint_id: uuid.UUID) -> sa.Select[tuple[object, ...]]:
    return _ALL.where(complaint.c.clinic_id == clinic_id, complaint.c.complaint_id == complaint_id)


def _complaint_from_row(row: sa.Row[tuple[object, ...]]) -> Complaint:
    values = {f.name: getattr(row, f.name) for f in fields(Complaint)}
    return Complaint(**values | {"origin": Origin(row.origin), "severity": Severity(row.severity)})
