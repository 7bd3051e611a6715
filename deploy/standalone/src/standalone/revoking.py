"""Revoking a token of a running platform: booking's own use case, on the database of the data folder."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from booking.usecases.tokens import revoke as put_on_denylist
from revisit_chassis.db import Database
from revisit_chassis.tokens import Verifier
from standalone.cluster import Cluster
from standalone.keys import TOKEN_LIFETIME_SECONDS, Keys


@dataclass(frozen=True, slots=True)
class Revoked:
    """What the denylist keeps of a token."""

    jti: str
    clinic_id: UUID | None
    expires_at: datetime


def revoked_by_text(keys: Keys, token: str) -> Revoked:
    """Reads what is needed from the token itself.

    Args:
        keys: Of the data folder; a token of another one is not ours to revoke.
        token: Signed.

    Raises:
        ValueError: It was not signed here, or has expired already.
    """
    principal = Verifier(str(keys.jwks)).verify(token)
    return Revoked(principal.jti, principal.clinic_id, principal.expires_at)


def revoked_by_id(jti: str, clinic_id: UUID | None, expires_at: datetime | None) -> Revoked:
    """Takes it for one that was issued just now, when nobody knows when it expires.

    Args:
        jti: Id of the token.
        clinic_id: Whose; none for a platform token.
        expires_at: When the denylist may forget it.
    """
    longest = datetime.now(UTC) + timedelta(seconds=TOKEN_LIFETIME_SECONDS)
    return Revoked(jti, clinic_id, expires_at or longest)


def revoke(data_dir: Path, gone: Revoked) -> None:
    """Refuses a token from now on: booking within a second, the others when they have heard of it.

    Args:
        data_dir: Of a platform that serves.
        gone: The token.

    Raises:
        PostgresFailed: No platform serves from that folder.
    """
    cluster = Cluster(data_dir / "postgres")
    cluster.attach()

    async def run() -> None:
        database = Database(cluster.addresses("booking").database_url, pool_size=1)
        try:
            await put_on_denylist(database, gone.clinic_id, gone.jti, gone.expires_at)
        finally:
            await database.close()

    asyncio.run(run())
