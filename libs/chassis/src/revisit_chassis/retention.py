"""What the chassis' own tables need not keep: stored answers, tokens that have expired by themselves."""

from sqlalchemy.ext.asyncio import AsyncConnection

# A caller repeats a request within minutes; a day lets it come back from a night's outage.
_ANSWERS = "DELETE FROM idempotency_key WHERE created_at < now() - interval '24 hours'"
# A verifier whose clock runs behind ours still has to find the token on the list.
_TOKENS = "DELETE FROM revoked_token WHERE expires_at < now() - interval '1 hour'"


async def purge(connection: AsyncConnection) -> None:
    """Deletes what has run out; retention is technical and goes by real time.

    Args:
        connection: Of the worker's role, which sees the rows of all clinics.
    """
    await connection.exec_driver_sql(_ANSWERS)
    await connection.exec_driver_sql(_TOKENS)
