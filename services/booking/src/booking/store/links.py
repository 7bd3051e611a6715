"""Links to the page of an appointment."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from booking import tables
from booking.domain.link import Answer, Link
from booking.store.appointments import appointment
from booking.store.rows import is_row


async def link(
    connection: AsyncConnection, clinic_id: UUID, token_hash: str, *, for_update: bool = False
) -> Link | None:
    """A link with what its page shows; None too when its patient was erased."""
    links, clinics, patients = tables.link, tables.clinic, tables.patient
    query = (
        sa.select(
            links,
            clinics.c.name,
            sa.func.coalesce(patients.c.language, links.c.language, clinics.c.language).label(
                "page_language"
            ),
            patients.c.time_zone.label("patient_time_zone"),
            clinics.c.time_zone.label("clinic_time_zone"),
        )
        .join(clinics, clinics.c.clinic_id == links.c.clinic_id)
        .outerjoin(
            patients,
            sa.and_(
                patients.c.clinic_id == links.c.clinic_id,
                patients.c.patient_id == links.c.patient_id,
            ),
        )
        .where(is_row(links, clinic_id, token_hash=token_hash), patients.c.erased_at.is_(None))
    )
    query = query.with_for_update(of=links) if for_update else query
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        return None
    shown = await appointment(connection, clinic_id, row["appointment_id"], for_update=for_update)
    if shown is None:
        return None
    return Link(
        purpose=Answer(row["purpose"]),
        appointment=shown,
        clinic_name=row["name"],
        language=row["page_language"],
        time_zones=tuple(filter(None, (row["patient_time_zone"], row["clinic_time_zone"]))),
        expires_at=row["expires_at"],
        used_at=row["used_at"],
        known_start=row["known_start"],
    )


async def mark_link_used(
    connection: AsyncConnection,
    clinic_id: UUID,
    token_hash: str,
    now: datetime,
    starts_at: datetime | None,
) -> None:
    """A link acts once for one start."""
    await connection.execute(
        sa.update(tables.link)
        .where(is_row(tables.link, clinic_id, token_hash=token_hash))
        .values(used_at=now, known_start=starts_at)
    )
