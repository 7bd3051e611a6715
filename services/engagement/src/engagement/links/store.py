"""Rows of links."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.links.domain import Link

_FIELDS = "clinic_id, token_hash, patient_id, message_id, purpose, channel, language, expires_at"


async def save_links(connection: AsyncConnection, links: Sequence[Link]) -> None:
    """Keeps the digests of links that are about to leave."""
    if not links:
        return
    await connection.exec_driver_sql(
        f"""
        INSERT INTO link ({_FIELDS})
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::text[],
            $7::text[], $8::timestamptz[])
        """,  # noqa: S608  # built of the constant above
        (
            [link.clinic_id for link in links],
            [link.token_hash for link in links],
            [link.patient_id for link in links],
            [link.message_id for link in links],
            [link.purpose for link in links],
            [link.channel for link in links],
            [link.language for link in links],
            [link.expires_at for link in links],
        ),
    )


async def clinic_of(connection: AsyncConnection, digest: str) -> UUID | None:
    """The clinic of a link, before any clinic is known."""
    result = await connection.exec_driver_sql("SELECT clinic_of_link($1)", (digest,))
    found: UUID | None = result.scalar_one()
    return found


async def load(connection: AsyncConnection, clinic_id: UUID, digest: str) -> Link | None:
    """A link by its digest."""
    result = await connection.exec_driver_sql(
        f"SELECT {_FIELDS} FROM link WHERE clinic_id = $1 AND token_hash = $2",  # noqa: S608  # constant
        (clinic_id, digest),
    )
    row = result.one_or_none()
    return Link(*list(row)) if row else None


async def forget_links(connection: AsyncConnection, patients: Sequence[tuple[UUID, UUID]]) -> None:
    """Deletes the links of (clinic, patient): whoever holds one finds that it does not work."""
    await connection.exec_driver_sql(
        """
        DELETE FROM link l USING unnest($1::uuid[], $2::uuid[]) AS k (clinic_id, patient_id)
        WHERE l.clinic_id = k.clinic_id AND l.patient_id = k.patient_id
        """,
        ([patient[0] for patient in patients], [patient[1] for patient in patients]),
    )
