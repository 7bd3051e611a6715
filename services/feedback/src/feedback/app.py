"""The composition root of feedback: what is wired to what, for the API and for the worker."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
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
from revisit_chassis.clock import Clock
from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database
from revisit_chassis.http import create_service_app
from revisit_chassis.problem import DomainError
from revisit_chassis.runtime import api_state
from revisit_events import asyncapi
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

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        keyring = Keyring.load(settings.keyring)
        async with api_state(settings, clock) as state:
            app.state.chassis = state
            app.state.keyring = keyring
            app.state.intake = _intake(state.database, keyring, state.clock)
            yield

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
        asyncapi.routes("feedback"),
    ):
        app.include_router(router)
    return app


def build_worker(settings: Settings, *, clock: Clock) -> Worker:
    """Gives the worker: consumer and relay; feedback has no work that waits for a moment.

    Args:
        settings: Of the service.
        clock: Business time.
    """
    return compose_worker(settings, clock, HANDLERS)


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
