"""Leadership by PostgreSQL's advisory locks: one holder, the standby waits and takes over at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import blake2b

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Database


def lock_number(name: str) -> int:
    """Gives the number under which PostgreSQL knows a lock.

    Args:
        name: Such as `booking.relay.0`.
    """
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), signed=True)


@asynccontextmanager
async def advisory_lock(database: Database, name: str) -> AsyncIterator[AsyncConnection]:
    """Waits for a lock and holds it as long as its connection lives.

    The connection is given, so that the holder can notice its loss: with it the lock is gone.

    Args:
        database: One of its connections is kept for the lock.
        name: Of the lock, within the database.
    """
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        # The wait may last as long as the holder lives, longer than any statement should.
        raw = await connection.get_raw_connection()
        driver = raw.driver_connection
        if driver is None:
            raise ConnectionError("the pool gave no connection")
        await driver.execute(f"SELECT pg_advisory_lock({lock_number(name)})", timeout=1e9)
        try:
            yield connection
        finally:
            if not connection.closed and not connection.invalidated:
                await driver.execute(f"SELECT pg_advisory_unlock({lock_number(name)})")


async def lead(
    database: Database,
    name: str,
    work: Callable[[AsyncConnection], Awaitable[None]],
    stop: asyncio.Event,
) -> None:
    """Waits for a lock and does the leader's work under it; gives up the wait when told to stop.

    Args:
        database: Holds the lock.
        name: Of the lock.
        work: Gets the lock's connection and ends by itself once told to stop.
        stop: Ends the wait.
    """
    async with AsyncExitStack() as stack:
        waiting = asyncio.create_task(stack.enter_async_context(advisory_lock(database, name)))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            if not waiting.done():
                waiting.cancel()
        if stop.is_set() and not (waiting.done() and not waiting.cancelled()):
            await asyncio.gather(waiting, return_exceptions=True)
            return
        await work(await waiting)
