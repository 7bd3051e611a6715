"""Every service learns of revoked tokens by event; its API asks the list for each request."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.schema import revoked_token
from revisit_events.contracts import TokenRevoked
from revisit_events.envelope import Event


async def on_token_revoked(
    connection: AsyncConnection,
    events: Sequence[Event[TokenRevoked]],
    now: datetime,  # noqa: ARG001  (a handler's signature)
) -> None:
    """Puts tokens on the denylist."""
    rows = [
        {
            "clinic_id": event.clinic_id,
            "jti": event.data.jti,
            "expires_at": event.data.expires_at,
        }
        for event in events
    ]
    await connection.execute(insert(revoked_token).on_conflict_do_nothing(), rows)
