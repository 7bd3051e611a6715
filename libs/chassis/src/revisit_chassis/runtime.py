"""What is open while a service runs: its clock, its database, the list of revoked tokens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import httpx

from revisit_chassis.clock import Clock, FollowedClock, SystemClock
from revisit_chassis.db import Database
from revisit_chassis.health import database_check
from revisit_chassis.http import ChassisState
from revisit_chassis.settings import ServiceSettings
from revisit_chassis.tokens import Denylist, Verifier


@asynccontextmanager
async def running_clock(settings: ServiceSettings, clock: Clock | None) -> AsyncIterator[Clock]:
    """Gives the clock of business time: the given one, else the followed one, else the system's.

    Args:
        settings: Name the clock to follow, if any.
        clock: Given by whoever runs several services in one process.
    """
    if clock is not None or not settings.clock_url:
        yield clock or SystemClock()
        return
    followed = FollowedClock(settings.clock_url, datetime(1970, 1, 1, tzinfo=UTC))
    async with httpx.AsyncClient(timeout=10) as client:
        # Before the first answer no time is right: better not to start.
        await followed.follow(client)
    following = asyncio.create_task(followed.run())
    try:
        yield followed
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


@asynccontextmanager
async def api_state(
    settings: ServiceSettings, clock: Clock | None, *, pool_size: int = 10
) -> AsyncIterator[ChassisState]:
    """Opens what an API needs and closes it at the end.

    Args:
        settings: Of the service.
        clock: See `running_clock`.
        pool_size: Connections to the database.
    """
    service = settings.service
    database = Database(
        settings.address("app"), pool_size=pool_size, application_name=f"{service}-api"
    )
    denylist = Denylist(is_read=False)
    verifier = Verifier(settings.jwks, denylist)
    async with running_clock(settings, clock) as business_clock:
        # Before the first request. If it fails, no token is trusted until a later read succeeds.
        await denylist.try_refresh(database)
        denying = asyncio.create_task(denylist.run(database))
        try:
            yield ChassisState(
                service,
                database,
                verifier,
                business_clock,
                {"database": database_check(database), "denylist": denylist.check},
            )
        finally:
            denying.cancel()
            await asyncio.gather(denying, return_exceptions=True)
            await database.close()
