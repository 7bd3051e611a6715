"""What every API has: problems, health, metrics, one log line a request, tokens, the transaction.

The middleware is plain ASGI: it costs microseconds, and the intake route is hot.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

import structlog
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database
from revisit_chassis.health import Check, health_routes
from revisit_chassis.metrics import REQUEST_SECONDS, REQUESTS
from revisit_chassis.problem import (
    DomainError,
    Problem,
    add_problem_handlers,
    problem_response,
)
from revisit_chassis.tokens import InvalidToken, Principal, Verifier

CORRELATION_ID = re.compile(r"[\w.:-]{1,64}")

log = structlog.get_logger()


@dataclass(slots=True)
class ChassisState:
    """What the chassis' dependencies need; a service's lifespan puts it at `app.state.chassis`."""

    service: str
    database: Database
    verifier: Verifier
    clock: Clock
    ready_checks: dict[str, Check] = field(default_factory=dict)


Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

DirectEndpoint = Callable[[Request], Awaitable[Response]]


class ServiceApp(FastAPI):
    """An app with a way past FastAPI's routing for its busiest routes."""

    direct: dict[tuple[str, str], DirectEndpoint]
    """Endpoints by method and path. They ask for nothing of FastAPI's: the exit stacks, the routing
    and the handlers of errors around an endpoint cost a fifth of a small request."""


def create_service_app(
    *,
    title: str,
    version: str = "1",
    service: str = "",
    lifespan: Lifespan | None = None,
    problems: Mapping[type[DomainError], tuple[int, str]] | None = None,
    description: str = "",
) -> ServiceApp:
    """Gives an app with health, metrics, problems and the request middleware.

    Args:
        title: Of the OpenAPI document.
        version: Of the API.
        service: Label of logs and metrics; the title in lower case when left out.
        lifespan: Opens and closes what the service needs and sets `app.state.chassis`.
        problems: HTTP status and title of each domain error.
        description: Of the OpenAPI document.
    """
    app = ServiceApp(
        title=title,
        version=version,
        description=description,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.direct = {}
    add_problem_handlers(app, problems or {})
    checks = _StateChecks(app)
    app.router.routes.extend(health_routes(checks))
    app.add_middleware(RequestMiddleware, service=service or title.lower(), direct=app.direct)
    _describe_problems(app)
    return app


class _StateChecks(Mapping[str, Check]):
    """The readiness checks of an app, looked up when they are asked for."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def _checks(self) -> dict[str, Check]:
        state: ChassisState | None = getattr(self._app.state, "chassis", None)
        return {} if state is None else state.ready_checks

    def __getitem__(self, name: str) -> Check:
        return self._checks()[name]

    def __iter__(self) -> Any:
        return iter(self._checks())

    def __len__(self) -> int:
        return len(self._checks())


class RequestMiddleware:
    """Correlation id, one log line, two metrics.

    Args:
        app: The app inside.
        service: Label.
        direct: Endpoints that are called from here.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: str,
        direct: Mapping[tuple[str, str], DirectEndpoint],
    ) -> None:
        self._app = app
        self._service = service
        self._direct = direct

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        correlation_id = _correlation_id(scope)
        scope["correlation_id"] = correlation_id
        started = time.perf_counter()
        status = 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", [])
                message["headers"] = [
                    *message["headers"],
                    (b"x-correlation-id", correlation_id.encode()),
                ]
            await send(message)

        with structlog.contextvars.bound_contextvars(
            service=self._service, correlation_id=correlation_id
        ):
            try:
                path = get_route_path(scope)
                if endpoint := self._direct.get((scope["method"], path)):
                    scope["direct_path"] = path
                    await _answer(endpoint, Request(scope, receive, send_on), send_on)
                else:
                    await self._app(scope, receive, send_on)
            finally:
                seconds = time.perf_counter() - started
                self._note(scope, status, seconds)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        path = scope.get("direct_path") or getattr(route, "path", "unmatched")
        method = scope["method"]
        REQUESTS.labels(self._service, method, path, str(status)).inc()
        REQUEST_SECONDS.labels(self._service, path).observe(seconds)
        if path not in {"/health/live", "/health/ready", "/metrics"}:
            log.info(
                "request.done",
                method=method,
                route=path,
                status=status,
                duration_ms=round(seconds * 1000, 2),
            )


async def _answer(endpoint: DirectEndpoint, request: Request, send: Send) -> None:
    try:
        response = await endpoint(request)
    except Problem as problem:
        response = problem_response(problem, request)
    await response(request.scope, request.receive, send)


def _correlation_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-correlation-id":
            text: str = value.decode("latin-1")
            if CORRELATION_ID.fullmatch(text):
                return text
    return uuid4().hex


def chassis_state(request: Request) -> ChassisState:
    """Gives the state that the service's lifespan made."""
    state: ChassisState = request.app.state.chassis
    return state


ChassisDep = Annotated[ChassisState, Depends(chassis_state)]


def principal_of(request: Request) -> Principal:
    """Gives who calls.

    Raises:
        Problem: 401, there is no valid token.
    """
    known: Principal | None = request.scope.get("principal")
    if known is not None:
        return known
    header = request.headers.get("authorization", "")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Problem(
            401,
            "no-token",
            "Send a token: Authorization: Bearer ...",
            headers={"WWW-Authenticate": "Bearer"},
        )
    try:
        principal = chassis_state(request).verifier.verify(token.strip())
    except InvalidToken as error:
        raise Problem(
            401,
            "invalid-token",
            f"{error}.".capitalize(),
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        ) from error
    request.scope["principal"] = principal
    return principal


CurrentPrincipal = Annotated[Principal, Depends(principal_of)]


def require(*scopes: str) -> Callable[[Request], Principal]:
    """Gives a dependency that lets a caller through who has one of the scopes.

    Args:
        scopes: Any of them is enough.
    """

    def check(request: Request) -> Principal:
        principal = principal_of(request)
        if principal.scopes.isdisjoint(scopes):
            raise Problem(403, "missing-scope", f"This needs the scope {' or '.join(scopes)}.")
        return principal

    return check


def clinic_of(principal: Principal) -> UUID:
    """Gives the clinic of a token.

    Raises:
        Problem: 403, it is a platform token.
    """
    if principal.clinic_id is None:
        raise Problem(403, "no-clinic", "A platform token reads and changes no clinic's data.")
    return principal.clinic_id


def clinic_id_of(principal: CurrentPrincipal) -> UUID:
    """Gives the clinic of the calling token."""
    return clinic_of(principal)


ClinicId = Annotated[UUID, Depends(clinic_id_of)]


async def clinic_transaction(
    clinic_id: ClinicId, state: ChassisDep
) -> AsyncIterator[AsyncConnection]:
    """Opens the request's transaction; it commits before the answer is sent."""
    async with state.database.transaction((clinic_id,)) as connection:
        yield connection


# scope="function": with FastAPI's default the commit would come after the answer.
ClinicConnection = Annotated[AsyncConnection, Depends(clinic_transaction, scope="function")]


def clock_of(state: ChassisDep) -> Clock:
    """Gives the clock of business time."""
    return state.clock


ClockDep = Annotated[Clock, Depends(clock_of)]


def now_of(clock: ClockDep) -> datetime:
    """Gives the moment of the request in business time."""
    return clock.now()


Now = Annotated[datetime, Depends(now_of)]


def _describe_problems(app: FastAPI) -> None:
    """Says in the OpenAPI document that errors are problems, in place of FastAPI's own bodies."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            schemas["Problem"] = PROBLEM_SCHEMA
            for path in document["paths"].values():
                for operation in path.values():
                    responses = operation["responses"]
                    responses.pop("422", None)
                    responses["default"] = {
                        "description": "A problem (RFC 9457)",
                        "content": {
                            "application/problem+json": {
                                "schema": {"$ref": "#/components/schemas/Problem"}
                            }
                        },
                    }
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
