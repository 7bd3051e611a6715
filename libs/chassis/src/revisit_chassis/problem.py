"""Errors as `application/problem+json` (RFC 9457), in every case, without anybody's data in them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from revisit_chassis.db import is_infrastructure_fault

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2
TOO_LARGE = 413

TITLES = {
    400: "The request cannot be read",
    401: "The token is missing or not valid",
    403: "The token does not allow this",
    404: "There is no such thing",
    405: "This method is not allowed here",
    406: "This cannot be answered in the wished form",
    409: "This conflicts with the present state",
    412: "The thing was changed meanwhile",
    413: "The request is too large",
    415: "This media type is not understood",
    422: "The request does not match its schema",
    429: "Too many requests",
    500: "Something went wrong here",
    503: "Not ready; try again in a moment",
}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FieldError:
    """A fault in one field: where (JSON pointer) and what."""

    pointer: str
    detail: str


class Problem(Exception):
    """An error that a caller is told about.

    Args:
        status: HTTP status.
        slug: Last part of the problem's `type`.
        detail: A sentence for the person who reads it; never a value of the request.
        errors: Fields at fault.
        title: The same for every problem of the type; the status' own when left out.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str = "",
        *,
        errors: Sequence[FieldError] = (),
        title: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail or slug)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.errors = tuple(errors)
        self.title = title or TITLES.get(status, "Error")
        self.headers = dict(headers or {})

    def as_json(self, instance: str | None = None) -> dict[str, Any]:
        """Gives the problem's object.

        Args:
            instance: Correlation id of the request.
        """
        content: dict[str, Any] = {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "status": self.status,
        }
        if self.detail:
            content["detail"] = self.detail
        if instance:
            content["instance"] = instance
        if self.errors:
            content["errors"] = [asdict(error) for error in self.errors]
        return content


class DomainError(Exception):
    """A rule says no. The first line of the class's docstring is the default text.

    `slug` is stable and part of the interface; HTTP is none of its business.
    """

    slug = "rule-broken"

    def __init__(self, detail: str = "") -> None:
        doc = (type(self).__doc__ or "").strip().splitlines()
        super().__init__(detail or (doc[0] if doc else self.slug))


def problem_response(problem: Problem, request: Request) -> Response:
    """Gives the answer for a problem.

    Args:
        problem: What went wrong.
        request: For its correlation id.
    """
    instance = request.scope.get("correlation_id")
    return JSONResponse(
        problem.as_json(instance),
        status_code=problem.status,
        headers=problem.headers,
        media_type=MEDIA_TYPE,
    )


def validation_problem(errors: Sequence[Any], slug: str = "invalid-request") -> Problem:
    """Gives the problem for pydantic's errors, as JSON pointers and without the values.

    Args:
        errors: Of a validation error.
        slug: Of the problem.
    """
    fields = tuple(FieldError(pointer_of(error["loc"]), _sentence(error)) for error in errors)
    detail = "; ".join(f"{field.pointer}: {field.detail}" for field in fields[:3])
    return Problem(422, slug, detail, errors=fields)


def pointer_of(location: Sequence[str | int]) -> str:
    """Gives the JSON pointer of a validation error's location.

    >>> pointer_of(("body", "contacts", "phone"))
    '/contacts/phone'
    """
    parts = list(location)
    if parts and parts[0] == "body":
        parts = parts[1:]
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def add_problem_handlers(
    app: FastAPI, problems: Mapping[type[DomainError], tuple[int, str]]
) -> None:
    """Makes every error that a route expects a problem; `RequestMiddleware` does the unexpected ones.

    Args:
        app: Whose handlers are replaced.
        problems: Status and title of each domain error.
    """

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)  # noqa: S101
        return problem_response(error, request)

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        if any(fault["type"] == "json_invalid" for fault in error.errors()):
            return problem_response(
                Problem(400, "malformed-body", "The body is no valid JSON."), request
            )
        return problem_response(validation_problem(error.errors()), request)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        return problem_response(http_problem(error), request)

    async def on_domain(request: Request, error: Exception) -> Response:
        assert isinstance(error, DomainError)  # noqa: S101
        status, title = next(
            (problems[kind] for kind in type(error).__mro__ if kind in problems),
            (409, TITLES[409]),
        )
        return problem_response(Problem(status, error.slug, str(error), title=title), request)

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(DomainError, on_domain)


def http_problem(error: HTTPException) -> Problem:
    """Gives the problem of an error of the framework's own.

    Args:
        error: What was raised.
    """
    slugs = {404: "not-found", 405: "method-not-allowed", 413: "too-large", 400: "unreadable"}
    # Frameworks put parts of a request into their details; of 413 there is only our own.
    detail = str(error.detail) if error.status_code == TOO_LARGE else ""
    return Problem(
        error.status_code,
        slugs.get(error.status_code, "http-error"),
        detail,
        headers=error.headers or {},
    )


def fault_problem(error: Exception) -> Problem:
    """Gives the problem of an unexpected error: 503 when the database is away, else 500.

    Args:
        error: What was raised; only its type and frames are logged, its text may hold anybody's data.
    """
    if is_infrastructure_fault(error):
        log.warning("request.not_ready", error=type(error).__name__)
        return Problem(
            503,
            "not-ready",
            "What this needs cannot be reached at the moment; nothing was changed.",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    log.error("request.failed", error=type(error).__name__, exc_info=error)
    return Problem(500, "internal-error", "The fault was written down; nothing was changed.")


def _sentence(error: Any) -> str:
    # pydantic's own texts name the rule; `ctx` of value errors may hold the value, so it is not used.
    return str(error["msg"])
