"""The composition root of feedback: what is wired to what, for the API and for the worker."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import cast

from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import pages
from feedback.complaints import api as complaints_api
from feedback.complaints.domain import ComplaintNotFoundError, ComplaintResolvedError
from feedback.consumers import HANDLERS
from feedback.reviews import api as reviews_api
from feedback.reviews.usecases import take_reviews
from feedback.settings import Settings
from feedback.surveys import api as surveys_api
from feedback.surveys.domain import SurveyNotFoundError
from revisit_chassis.clock import Clock, FollowedClock, SystemClock
from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database
from revisit_chassis.health import database_check
from revisit_chassis.http import ChassisState, create_service_app
from revisit_chassis.problem import DomainError
from revisit_chassis.tokens import Denylist, Verifier
from revisit_events.contracts import ReviewPosted, ReviewSubmitted
from revisit_events.envelope import AnyEvent, Event
from revisit_events.intake import Intake
from revisit_events.intake_routes import mount_intake
from revisit_events.worker import Worker, compose_worker

PROBLEMS: Mapping[type[DomainError], tuple[int, str]] = {
    ComplaintNotFoundError: (404, "There is no such complaint"),
    ComplaintResolvedError: (409, "The complaint is resolved"),
    SurveyNotFoundError: (404, "There is no such survey"),
}


def create_app(settings: Settings, *, clock: Clock | None = None) -> FastAPI:
    """Gives the API: intake of reviews, survey pages, resources of staff.

    Args:
        settings: Of the service.
        clock: Business time; by the settings when left out.
    """
    business_clock = clock or _clock_of(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(settings.address("app"), application_name="feedback-api")
        denylist = Denylist()
        app.state.chassis = ChassisState(
            service="feedback",
            database=database,
            verifier=Verifier(settings.jwks, denylist),
            clock=business_clock,
            ready_checks={"database": database_check(database)},
        )
        app.state.keyring = Keyring.load(settings.keyring)
        app.state.intake = _intake(database, app.state.keyring, business_clock)
        loops = [asyncio.create_task(denylist.run(database))]
        if clock is None and isinstance(business_clock, FollowedClock):
            loops.append(asyncio.create_task(business_clock.run()))
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()
                with suppress(asyncio.CancelledError):
                    await loop
            await database.close()

    app = create_service_app(
        title="Feedback",
        service="feedback",
        lifespan=lifespan,
        problems=PROBLEMS,
        description="Surveys, reviews and complaints.",
    )
    mount_intake(app)
    for router in (
        pages.router,
        surveys_api.router,
        reviews_api.router,
        complaints_api.router,
    ):
        app.include_router(router)
    return app


def build_worker(settings: Settings, *, clock: Clock | None = None) -> Worker:
    """Gives the worker: consumer and relay; feedback has no work that waits for a moment.

    Args:
        settings: Of the service.
        clock: Business time; no handler here looks at it.
    """
    return compose_worker(settings, clock or SystemClock(), HANDLERS)


def _intake(database: Database, keyring: Keyring, clock: Clock) -> Intake:
    async def apply(
        connection: AsyncConnection, events: Sequence[AnyEvent], _now: datetime
    ) -> None:
        # The intake lets no other type through: `contracts` below.
        await take_reviews(connection, keyring, cast("Sequence[Event[ReviewPosted]]", events))

    return Intake(
        database,
        service="feedback",
        contracts=[ReviewSubmitted],
        apply=apply,
        keyring=keyring,
        clock=clock,
    )


def _clock_of(settings: Settings) -> Clock:
    if settings.clock_url:
        return FollowedClock(settings.clock_url, datetime.now(UTC))
    return SystemClock()
