"""Who did what to which record."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.schema import audit_entry


async def record_audit(
    connection: AsyncConnection,
    *,
    clinic_id: UUID,
    actor: str,
    action: str,
    record: str,
    at: datetime,
    correlation_id: str | None = None,
) -> None:
    """Adds an entry, in the transaction of what was done.

    Args:
        connection: Of the transaction.
        clinic_id: Whose record it is.
        actor: `sub` of the token.
        action: Such as `<noun>.erase`.
        record: `<noun>:<uuid>`; no personal data.
        at: Business time.
        correlation_id: Of the request.
    """
    await connection.execute(
        insert(audit_entry).values(
            clinic_id=clinic_id,
            actor=actor,
            action=action,
            record=record,
            at=at,
            correlation_id=correlation_id,
        )
    )
