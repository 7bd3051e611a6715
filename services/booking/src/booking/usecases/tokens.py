"""Revoking a token: refused here at once, in the other services when they hear of it."""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert

from revisit_chassis.db import Database
from revisit_chassis.schema import revoked_token
from revisit_events.contracts import TokenRevoked
from revisit_events.envelope import PLATFORM, new_event
from revisit_events.outbox import publish


async def revoke(
    database: Database, clinic_id: UUID | None, jti: str, expires_at: datetime
) -> None:
    """Puts a token on the denylist and tells everybody.

    Args:
        database: Of the service.
        clinic_id: Of the token; none for a platform token.
        jti: Id of the token.
        expires_at: When it would have expired; the list may forget it then.
    """
    owner = clinic_id or PLATFORM
    event = new_event(
        TokenRevoked(jti=jti, expires_at=expires_at),
        source="/booking",
        clinic_id=owner,
        time=datetime.now(UTC),  # tokens live in real time
        id=f"revoked-{jti}",
    )
    async with database.transaction((owner,)) as connection:
        taken = await connection.execute(
            insert(revoked_token)
            .values(clinic_id=owner, jti=jti, expires_at=expires_at)
            .on_conflict_do_nothing()
            .returning(revoked_token.c.jti)
        )
        if taken.first() is not None:
            await publish(connection, [event])
