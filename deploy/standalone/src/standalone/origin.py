"""One origin for the four services: their apps under their prefixes, the clock beside them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict, Field

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database
from revisit_chassis.health import Check
from revisit_chassis.http import ChassisState, create_service_app, require
from revisit_chassis.tokens import Verifier
from standalone.clock import ClockDriver

LONGEST_ADVANCE = timedelta(days=366)


class Advance(BaseModel):
    """How far the simulated clock goes."""

    model_config = ConfigDict(extra="forbid")

    advance: Annotated[timedelta, Field(ge=timedelta(0), le=LONGEST_ADVANCE)]
    """ISO 8601 duration, such as PT24H."""


class ClockTime(BaseModel):
    """The time of the platform."""

    now: datetime
    is_simulated: bool


def create_origin(
    apps: Mapping[str, FastAPI],
    *,
    clock: Clock,
    driver: ClockDriver | None,
    database: Database,
    verifier: Verifier,
    checks: dict[str, Check],
) -> FastAPI:
    """Gives the app that serves everything of the embedded default.

    Args:
        apps: The services' apps by prefix, without the slash.
        clock: Business time.
        driver: Moves the simulated clock; none when the clock is the system's.
        database: Any service's; the chassis wants one.
        verifier: Of tokens.
        checks: Of readiness of the whole.
    """

    @asynccontextmanager
    async def lifespan(origin: FastAPI) -> AsyncIterator[None]:
        origin.state.chassis = ChassisState("standalone", database, verifier, clock, checks)
        async with AsyncExitStack() as stack:
            for app in apps.values():
                # Starlette runs no lifespan of a mounted app.
                await stack.enter_async_context(app.router.lifespan_context(app))
            yield

    origin = create_service_app(
        title="Revisit", service="standalone", lifespan=lifespan, description="The clock."
    )

    @origin.get("/clock")
    async def read_clock() -> ClockTime:
        """Gives the time of the platform."""
        return ClockTime(now=clock.now(), is_simulated=clock.is_simulated)

    if driver is not None:
        _add_advance(origin, driver)
    for prefix, app in apps.items():
        origin.mount(f"/{prefix}", app)
    return origin


def _add_advance(origin: FastAPI, driver: ClockDriver) -> None:
    @origin.post("/clock", dependencies=[Depends(require("platform:clock"))])
    async def advance_clock(body: Advance) -> ClockTime:
        """Moves the clock; answers when all work due by then has fired and every group caught up."""
        return ClockTime(now=await driver.advance(body.advance), is_simulated=True)
