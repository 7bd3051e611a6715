"""What every API has: problems, health, metrics, one log line a request, tokens, the transaction.

The middleware is plain ASGI: it costs microseconds, and the intake route is hot.
"""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from random import Random
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import Depends, FastAPI
from prometheus_client import Counter, Histogram
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette._utils import get_route_path
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database
from revisit_chassis.failpoint import failpoint
from revisit_chassis.health import Check, health_routes
from revisit_chassis.identifiers import routable
from revisit_chassis.metrics import REQUEST_SECONDS, REQUESTS
from revisit_chassis.problem import (
    RETRY_AFTER_SECONDS,
    TOO_LARGE,
    DomainError,
    Problem,
    add_problem_handlers,
    fault_problem,
    http_problem,
    problem_response,
)
from revisit_chassis.tokens import DenylistNotRead, InvalidToken, Principal, Verifier
from revisit_chassis.trace import take_traceparent

CORRELATION_ID = re.compile(r"[\w.:-]{1,64}")
MAX_BODY_BYTES = 4 * 1024 * 1024
QUIET_PATHS = frozenset({"/health/live", "/health/ready", "/metrics"})

log = structlog.get_logger()
# A correlation id is a name and no secret: nothing is gained by asking the system for it.
_names = Random()  # noqa: S311


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
    """An app with a way past FastAPI for its busiest routes."""

    direct: dict[tuple[str, str], DirectEndpoint]
    """Endpoints by method and path. They ask for nothing of FastAPI's: its middleware, its routing, the
    exit stacks and the handlers of errors around an endpoint cost a quarter of a small request."""
    edge: "RequestMiddleware"
    """What stands around the direct endpoints."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request, or a message of the lifespan."""
        if scope["type"] == "http":
            path = get_route_path(scope)
            # An encoded slash is none (`routable`), though the server has decoded it.
            if (scope["method"], path) in self.direct and not _has_encoded_slash(scope):
                scope["app"] = self
                scope["direct_path"] = path
                await self.edge(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    async def answer_directly(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls the direct endpoint of a request."""
        request = Request(scope, receive, send)
        try:
            response = await self.direct[scope["method"], scope["direct_path"]](request)
        except Problem as problem:
            response = problem_response(problem, request)
        except HTTPException as error:
            response = problem_response(http_problem(error), request)
        await response(scope, receive, send)


def create_service_app(
    *,
    title: str,
    version: str = "1",
    service: str = "",
    lifespan: Lifespan | None = None,
    problems: Mapping[type[DomainError], tuple[int, str]] | None = None,
    description: str = "",
    max_body_bytes: int = MAX_BODY_BYTES,
) -> ServiceApp:
    """Gives an app with health, metrics, problems and the request middleware.

    Args:
        title: Of the OpenAPI document.
        version: Of the API.
        service: Label of logs and metrics; the title in lower case when left out.
        lifespan: Opens and closes what the service needs and sets `app.state.chassis`.
        problems: HTTP status and title of each domain error.
        description: Of the OpenAPI document.
        max_body_bytes: A longer body is answered with 413, whether or not its length was declared.
    """
    app = ServiceApp(
        title=title,
        version=version,
        description=description,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # Behind a proxy it would lead from https to http, with the caller's token.
        redirect_slashes=False,
        # FastAPI would tell the texts of exceptions and refused values to whatever provider it finds.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        generate_unique_id_function=lambda route: route.name,
    )
    app.direct = {}
    add_problem_handlers(app, problems or {})
    checks = _StateChecks(app)
    app.router.routes.extend(health_routes(checks))
    service = service or title.lower()
    app.add_middleware(RequestMiddleware, service=service, max_body_bytes=max_body_bytes)
    app.edge = RequestMiddleware(app.answer_directly, service, max_body_bytes)
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
    """Correlation id, one log line, two metrics, the longest body, and problems for what nobody expected.

    Of apps mounted in one another the innermost one writes the line and counts.

    Args:
        app: The app inside.
        service: Label.
        max_body_bytes: Longest body.
    """

    def __init__(self, app: ASGIApp, service: str, max_body_bytes: int) -> None:
        self._app = app
        self._service = service
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_outermost = "correlation_id" not in scope
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if is_outermost:
            scope["correlation_id"] = _correlation_id(headers.get(b"x-correlation-id", b""))
            take_traceparent(headers.get(b"traceparent"))
            if _has_encoded_slash(scope):
                scope["path"] = routable(scope["raw_path"])
        correlation_id: str = scope["correlation_id"]
        started = time.perf_counter()
        status: int | None = None

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if is_outermost:
                    message["headers"] = [
                        *message.get("headers", ()),
                        (b"x-correlation-id", correlation_id.encode()),
                    ]
            await send(message)

        limited = _limited(receive, headers.get(b"content-length", b""), self._max_body_bytes)
        # By token: `bound_contextvars` first reads all that is bound.
        bound = structlog.contextvars.bind_contextvars(
            service=self._service, correlation_id=correlation_id
        )
        try:
            await self._app(scope, limited, send_on)
        except Exception as error:
            # Starlette's own place for unexpected errors is outside of every middleware.
            if status is not None:
                raise
            answer = problem_response(fault_problem(error), Request(scope))
            await answer(scope, receive, send_on)
        finally:
            self._note(scope, status or 500, time.perf_counter() - started)
            structlog.contextvars.reset_contextvars(**bound)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        if scope.get("is_noted"):
            return
        scope["is_noted"] = True
        asked = get_route_path(scope)
        is_quiet = asked in QUIET_PATHS
        path = scope.get("direct_path") or getattr(scope.get("route"), "path", "unmatched")
        path = asked if is_quiet else path
        method = scope["method"]
        count, observe = _meters(self._service, method, path, status)
        count.inc()
        observe.observe(seconds)
        if not is_quiet:
            log.info(
                "request.done",
                method=method,
                route=path,
                status=status,
                duration_ms=round(seconds * 1000, 2),
            )


def _has_encoded_slash(scope: Scope) -> bool:
    return b"%2f" in (scope.get("raw_path") or b"").lower()


@lru_cache(maxsize=4096)
def _meters(service: str, method: str, path: str, status: int) -> tuple[Counter, Histogram]:
    """Gives the metrics of a kind of request; looking them up costs more than counting."""
    counter = REQUESTS.labels(service, method, path, str(status))
    return counter, REQUEST_SECONDS.labels(service, path)


def _limited(receive: Receive, declared: bytes, max_bytes: int) -> Receive:
    """Gives `receive` for a body of limited length, counted as it comes where none is declared.

    Of one whose length is declared the server reads no more than that.
    """
    is_declared = declared.isdigit()
    if is_declared and int(declared) <= max_bytes:
        return receive
    seen_bytes = 0

    async def receive_some() -> Message:
        nonlocal seen_bytes
        if is_declared:
            raise _too_large(max_bytes)
        message = await receive()
        seen_bytes += len(message.get("body", b""))
        if seen_bytes > max_bytes:
            raise _too_large(max_bytes)
        return message

    return receive_some


def _too_large(max_bytes: int) -> HTTPException:
    # FastAPI lets only this kind of error out of its reading of a body.
    return HTTPException(TOO_LARGE, f"A request may hold at most {max_bytes} bytes.")


def _correlation_id(header: bytes) -> str:
    text = header.decode("latin-1")
    return text if CORRELATION_ID.fullmatch(text) else f"{_names.getrandbits(128):032x}"


async def body_of(request: Request) -> bytes:
    """Gives the whole body, like `Request.body`, without the generator that nearly all bodies do not need.

    Raises:
        ClientDisconnect: The client went away before its end.
    """
    parts = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


# Every dependency is `async`: FastAPI runs another kind in a thread, and a request with five of them
# waits five times for a thread and for the interpreter's lock. What would block goes to a thread itself.
# Those of each request take no other dependency either: resolving one costs more than what it does.


async def chassis_state(request: Request) -> ChassisState:
    """Gives the state that the service's lifespan made."""
    state: ChassisState = request.app.state.chassis
    return state


ChassisDep = Annotated[ChassisState, Depends(chassis_state)]


async def principal_of(request: Request) -> Principal:
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
        state = await chassis_state(request)
        principal = await state.verifier.recognise(token.strip())
    except DenylistNotRead as error:
        raise Problem(
            503,
            "not-ready",
            "Revoked tokens are not known yet; nothing was changed.",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        ) from error
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


def require(*scopes: str) -> Callable[[Request], Awaitable[Principal]]:
    """Gives a dependency that lets a caller through who has one of the scopes.

    Args:
        scopes: Any of them is enough.
    """

    async def check(request: Request) -> Principal:
        principal = await principal_of(request)
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


async def clinic_id_of(request: Request) -> UUID:
    """Gives the clinic of the calling token."""
    return clinic_of(await principal_of(request))


ClinicId = Annotated[UUID, Depends(clinic_id_of)]


async def clinic_transaction(request: Request) -> AsyncIterator[AsyncConnection]:
    """Opens the request's transaction; it commits before the answer is sent."""
    clinic_id = await clinic_id_of(request)
    state = await chassis_state(request)
    async with state.database.transaction((clinic_id,)) as connection:
        yield connection
        failpoint("request.before_commit")
    failpoint("request.after_commit")


# scope="function": with FastAPI's default the commit would come after the answer.
ClinicConnection = Annotated[AsyncConnection, Depends(clinic_transaction, scope="function")]


async def clock_of(request: Request) -> Clock:
    """Gives the clock of business time."""
    return (await chassis_state(request)).clock


ClockDep = Annotated[Clock, Depends(clock_of)]


async def now_of(request: Request) -> datetime:
    """Gives the moment of the request in business time."""
    return (await clock_of(request)).now()


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
