"""Who did what to which record."""

from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import fetch

# Every command writes one, so it is the driver's own statement.
_RECORD = """
INSERT INTO audit_entry (clinic_id, actor, action, record, at, correlation_id)
VALUES ($1, $2, $3, $4, $5, $6)
"""


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
    await fetch(connection, _RECORD, clinic_id, actor, action, record, at, correlation_id)
