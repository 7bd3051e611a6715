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
        name: Such as `<service>.relay.0`.
    """
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), signed=True)


@asynccontextmanager
async def advisory_lock(database: Database, name: str) -> AsyncIterator[AsyncConnection]:
    """Waits for a lock and holds it as long as its connection lives.

    The connection is given, so that the holder can notice its loss (`is_lost`): with it the lock is gone.
    It is one of its own, outside the pool, and closed at the end whatever happens, a cancelled wait
    included: so the lock needs no release, and no pooled connection ever carries it.

    Args:
        database: Opens the connection.
        name: Of the lock, within the database.
    """
    async with database.alone() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        if driver is None:
            raise ConnectionError("there is no connection to hold the lock")
        # The wait may last as long as the holder lives, longer than any statement should.
        await driver.execute(f"SELECT pg_advisory_lock({lock_number(name)})", timeout=1e9)
        yield connection


async def is_lost(connection: AsyncConnection) -> bool:
    """Tells whether the connection that holds a lock is gone, and the lock with it.

    SQLAlchemy learns of a loss only from a failing statement, and none runs on this connection; the
    driver knows as soon as the server or the network closes it.

    Args:
        connection: Given by `advisory_lock`.
    """
    if connection.closed or connection.invalidated:
        return True
    driver = (await connection.get_raw_connection()).driver_connection
    return driver is None or driver.is_closed()


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
            await asyncio.gather(waiting, stopped, return_exceptions=True)
        if not waiting.cancelled():
            await work(waiting.result())
