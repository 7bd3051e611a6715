"""No route leaves the event loop by accident: whatever FastAPI calls for one is `async`.

FastAPI runs anything else in a thread. A request then waits for one and for the interpreter's lock, once a
dependency; five such dependencies cost as much as all statements of the request.
"""

from collections.abc import Callable, Iterator, Sequence
from inspect import isasyncgenfunction, iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from tests.apps import SERVICES, Keys, make_app

from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_chassis.tenancy import Roles
from revisit_chassis.tokens import Verifier
from revisit_events.testing import NOON
from standalone.clock import ClockDriver, ClockFile
from standalone.cluster import ServiceDatabase
from standalone.origin import create_origin

NOWHERE = "postgresql://nobody:none@127.0.0.1:9/none"


@pytest.fixture
def app(request: pytest.FixtureRequest, tmp_path: Path) -> FastAPI:
    """A service's app, or the origin's; it is not started."""
    keys = Keys.generate(tmp_path)
    if request.param in SERVICES:
        addresses = ServiceDatabase(NOWHERE, NOWHERE, NOWHERE, Roles("app", "worker"))
        return make_app(request.param, addresses, keys)
    clock = SimulatedClock(NOON)
    return create_origin(
        {},
        clock=clock,
        driver=ClockDriver(clock, ClockFile(tmp_path / "clock.json"), _settled),
        database=Database(NOWHERE),
        verifier=Verifier(str(tmp_path / "jwks.json")),
        checks={},
    )


async def _settled() -> None:
    """Nothing is due."""


def routes_of(routes: Sequence[BaseRoute]) -> Iterator[APIRoute]:
    """FastAPI's routes, those of included routers too."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif (included := getattr(route, "original_router", None)) is not None:
            yield from routes_of(included.routes)


def calls_of(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    """A route's endpoint and whatever it depends on."""
    assert dependant.call is not None
    yield dependant.call
    for dependency in dependant.dependencies:
        yield from calls_of(dependency)


def threaded(routes: Sequence[BaseRoute]) -> set[str]:
    """What FastAPI would call in a thread, by name."""
    return {
        f"{call.__module__}.{call.__qualname__}"
        for route in routes_of(routes)
        for call in calls_of(route.dependant)
        if not iscoroutinefunction(call) and not isasyncgenfunction(call)
    }


@pytest.mark.parametrize("app", [*SERVICES, "standalone"], indirect=True)
def test_endpoints_and_their_dependencies_are_async(app: FastAPI) -> None:
    described = {path for path in app.openapi()["paths"] if not path.startswith(("/health", "/m"))}
    assert described <= {route.path_format for route in routes_of(app.routes)}, "some were not met"
    assert threaded(app.routes) == set()


def test_a_dependency_that_would_run_in_a_thread_is_found() -> None:
    def blocking() -> int:
        return 1

    async def between(found: int = Depends(blocking)) -> int:
        return found

    app = FastAPI()

    @app.get("/", dependencies=[Depends(between)])
    async def read() -> None:
        """Nothing."""

    assert {name.rsplit(".", 1)[1] for name in threaded(app.routes)} == {"blocking"}
