"""The clinic, and its own names of records."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from booking import tables
from booking.domain.patient import Clinic
from booking.store.rows import is_row, sequence_of, time_of


async def clinic(
    connection: AsyncConnection, clinic_id: UUID, *, for_update: bool = False
) -> Clinic | None:
    """The clinic, once it is registered; locked until the transaction ends if `for_update`."""
    query = sa.select(tables.clinic).where(is_row(tables.clinic, clinic_id))
    query = query.with_for_update() if for_update else query
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        return None
    return Clinic(
        clinic_id=row["clinic_id"],
        name=row["name"],
        time_zone=row["time_zone"],
        language=row["language"],
        country=row["country"],
        currency=row["currency"],
        live_from=row["live_from"],
        version=row["version"],
        told_at=time_of(row["precedence"]),
        sequence=sequence_of(row["precedence"]),
    )


async def identifiers(
    connection: AsyncConnection, clinic_id: UUID, noun_ids: Sequence[tuple[str, UUID]]
) -> dict[tuple[str, UUID], str]:
    """The clinic's own names of records, for those that it named."""
    if not noun_ids:
        return {}
    table = tables.identifier
    query = sa.select(table.c.noun, table.c.id, table.c.identifier).where(
        table.c.clinic_id == clinic_id, sa.tuple_(table.c.noun, table.c.id).in_(noun_ids)
    )
    return {(row.noun, row.id): row.identifier for row in await connection.execute(query)}
