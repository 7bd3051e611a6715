"""Where scoring is put together: its API and its worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from revisit_chassis.clock import Clock
from revisit_chassis.http import create_service_app
from revisit_chassis.runtime import api_state
from revisit_events import asyncapi
from revisit_events.worker import Worker, compose_worker
from scoring import api
from scoring.consumers import HANDLERS
from scoring.rescoring import Rescore
from scoring.rhythm import RefreshRhythms
from scoring.settings import Settings


def create_app(settings: Settings, *, clock: Clock | None = None) -> FastAPI:
    """Gives the API.

    Args:
        settings: Of the service.
        clock: Business time; by the settings when left out.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with api_state(settings, clock) as state:
            app.state.chassis = state
            yield

    app = create_service_app(title="Scoring", lifespan=lifespan)
    app.include_router(api.router)
    app.include_router(asyncapi.routes("scoring"))
    return app


def build_worker(settings: Settings, *, clock: Clock) -> Worker:
    """Gives the worker.

    Args:
        settings: Of the service.
        clock: Business time.
    """
    return compose_worker(
        settings,
        clock,
        HANDLERS,
        lambda database, feed: [
            Rescore(database, feed),
            RefreshRhythms(database),
        ],
    )
