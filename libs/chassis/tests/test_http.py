"""What every API does alike: problems, limits, ids, health, entity tags, the commit before the answer."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, TypeAdapter
from sqlalchemy.exc import InterfaceError
from structlog.testing import capture_logs

from revisit_chassis.db import Database
from revisit_chassis.etag import IfMatch, check_if_match, etag
from revisit_chassis.health import database_check, failures
from revisit_chassis.http import ClinicConnection, ServiceApp, create_service_app
from revisit_chassis.metrics import REQUESTS
from revisit_chassis.pages import decode_cursor, encode_cursor, position_of
from revisit_chassis.problem import DomainError, Problem

Served = Callable[[Callable[[FastAPI], None]], AbstractAsyncContextManager[httpx.AsyncClient]]


class Thing(BaseModel):
    name: str
    size: int = 1


class TooHeavy(DomainError):
    """A thing must be light."""

    slug = "too-heavy"


async def direct(request: Request) -> Response:
    match await request.body():
        case b"heavy":
            raise Problem(409, "heavy", "It must be light.")
        case b"broken":
            raise RuntimeError("Щербакова")
        case b"away":
            raise InterfaceError("SELECT", None, OSError("Щербакова"))
    return Response(status_code=202)


def routes(app: FastAPI) -> None:
    @app.post("/v1/things")
    async def make(body: Thing) -> Thing:
        return body

    @app.get("/v1/broken")
    async def broken() -> None:
        raise RuntimeError("Щербакова")

    @app.get("/v1/away")
    async def away() -> None:
        raise InterfaceError("SELECT", None, OSError("Щербакова"))

    @app.get("/v1/heavy")
    async def heavy() -> None:
        raise TooHeavy

    assert isinstance(app, ServiceApp)
    app.direct["POST", "/v1/direct"] = direct

    @app.put("/v1/edited")
    async def edit(if_match: IfMatch = None) -> Response:
        check_if_match(if_match, 3)
        return Response(headers={"ETag": etag(3)})

    @app.put("/v1/absent")
    async def edit_absent(if_match: IfMatch = None) -> Response:
        check_if_match(if_match, None)
        return Response()


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "slug"),
    [
        ("GET", "/v1/nothing", None, 404, "not-found"),
        ("POST", "/v1/things/", b"{}", 404, "not-found"),
        ("POST", "/v1/direct", b"heavy", 409, "heavy"),
        ("POST", "/v1/direct", b"broken", 500, "internal-error"),
        ("POST", "/v1/direct", b"away", 503, "not-ready"),
        ("POST", "/v1/direct", b"x" * 10_001, 413, "too-large"),
        ("POST", "/v1%2Fdirect", b"", 404, "not-found"),
        ("GET", "/v1/direct", None, 404, "not-found"),
        ("DELETE", "/v1/things", None, 405, "method-not-allowed"),
        ("POST", "/v1/things", b'{"size": "x"}', 422, "invalid-request"),
        ("POST", "/v1/things", b"{", 400, "malformed-body"),
        ("POST", "/v1/things", b"\xff", 400, "unreadable"),
        ("POST", "/v1/things", b'"' + b"x" * 10_001 + b'"', 413, "too-large"),
        ("GET", "/v1/heavy", None, 409, "too-heavy"),
        ("GET", "/v1/broken", None, 500, "internal-error"),
        ("GET", "/v1/away", None, 503, "not-ready"),
    ],
)
async def test_every_error_is_a_problem_with_its_correlation_id(
    served: Served, method: str, path: str, content: bytes | None, status: int, slug: str
) -> None:
    headers = {"Content-Type": "application/json", "X-Correlation-Id": "flow-7"}
    async with served(routes) as client:
        answer = await client.request(method, path, content=content, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get_list("x-correlation-id") == ["flow-7"]
    problem = answer.json()
    assert (problem["type"], problem["status"]) == (f"/problems/{slug}", status)
    assert problem["instance"] == "flow-7"
    assert "Щербакова" not in answer.text
    if status == 422:
        assert {error["pointer"] for error in problem["errors"]} == {"/name", "/size"}


async def test_direct_endpoint_is_counted_logged_and_answered_like_any_other(
    served: Served,
) -> None:
    with capture_logs() as logs:
        async with served(routes) as client:
            answer = await client.post("/v1/direct", headers={"X-Correlation-Id": "flow-8"})
    assert answer.status_code == 202
    assert answer.headers.get_list("x-correlation-id") == ["flow-8"]
    (line,) = [line for line in logs if line["event"] == "request.done"]
    assert (line["status"], line["method"], line["route"]) == (202, "POST", "/v1/direct")


async def test_unexpected_error_is_counted_and_logged_as_what_was_answered(served: Served) -> None:
    def count(status: str) -> float:
        return float(REQUESTS.labels("things", "GET", "/v1/away", status)._value.get())

    before = count("503")
    with capture_logs() as logs:
        async with served(routes) as client:
            await client.get("/v1/away")
    assert count("503") == before + 1
    (line,) = [line for line in logs if line["event"] == "request.done"]
    assert (line["status"], line["route"]) == (503, "/v1/away")


async def test_body_of_undeclared_length_is_cut_off_while_it_is_read(served: Served) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 1_000_000:
            sent += 4_000
            yield b" " * 4_000

    async with served(routes) as client:
        answer = await client.post(
            "/v1/things", content=endless(), headers={"Content-Type": "application/json"}
        )
    assert answer.status_code == 413
    assert sent < 100_000


async def test_health_and_metrics_write_no_line_and_have_their_own_label(served: Served) -> None:
    with capture_logs() as logs:
        async with served(routes) as client:
            assert (await client.get("/health/live")).json() == {"status": "live"}
            assert (await client.get("/health/ready")).status_code == 200
            page = (await client.get("/metrics")).text
    assert not [line for line in logs if line["event"] == "request.done"]
    assert 'route="/health/ready"' in page


async def test_request_to_a_mounted_app_is_counted_once_and_has_one_id() -> None:
    inner, outer = create_service_app(title="Inner"), create_service_app(title="Outer")
    routes(inner)
    outer.mount("/inner", inner)
    transport = httpx.ASGITransport(app=outer)
    with capture_logs() as logs:
        async with httpx.AsyncClient(transport=transport, base_url="http://outer") as client:
            answer = await client.put("/inner/v1/edited")
            await client.get("/inner/health/live")
    assert len(answer.headers.get_list("x-correlation-id")) == 1
    assert [line["route"] for line in logs if line["event"] == "request.done"] == ["/v1/edited"]


async def test_readiness_is_red_when_the_database_does_not_answer() -> None:
    away = Database("postgresql://nobody:x@127.0.0.1:1/none")
    assert set(await failures({"database": database_check(away)})) == {"database"}
    await away.close()


async def test_readiness_asks_the_database_with_a_statement(database: Database) -> None:
    statements = []

    @sa.event.listens_for(database.engine.sync_engine, "before_cursor_execute")
    def _note(_c: object, _k: object, statement: str, *_: object) -> None:
        statements.append(statement)

    assert await failures({"database": database_check(database)}) == {}
    assert "SELECT 1" in statements


@pytest.mark.parametrize(
    ("path", "if_match", "status"),
    [
        ("/v1/edited", None, 200),
        ("/v1/edited", '"3"', 200),
        ("/v1/edited", 'W/"3"', 200),
        ("/v1/edited", '"2", "3"', 200),
        ("/v1/edited", "*", 200),
        ("/v1/edited", '"2"', 412),
        ("/v1/absent", None, 200),
        ("/v1/absent", "*", 412),
        ("/v1/absent", '"0"', 412),
    ],
)
async def test_edit_goes_through_only_when_the_version_matches(
    served: Served, path: str, if_match: str | None, status: int
) -> None:
    headers = {} if if_match is None else {"If-Match": if_match}
    async with served(routes) as client:
        assert (await client.put(path, headers=headers)).status_code == status


async def test_commit_that_fails_is_seen_by_the_client(served: Served) -> None:
    # With FastAPI's default scope the dependency ends, and commits, after the answer was sent.
    def add(app: FastAPI) -> None:
        @app.post("/v1/things")
        async def make(connection: ClinicConnection) -> dict[str, bool]:
            await connection.exec_driver_sql(
                "CREATE TEMP TABLE late (n int, UNIQUE (n) DEFERRABLE INITIALLY DEFERRED) "
                "ON COMMIT DROP"
            )
            await connection.exec_driver_sql("INSERT INTO late VALUES (1), (1)")
            return {"made": True}

    async with served(add) as client:
        answer = await client.post("/v1/things")
    assert answer.status_code == 500
    assert "made" not in answer.text


def test_cursor_gives_back_its_position() -> None:
    position = ["2026-01-15T12:00:00+00:00", "7"]
    assert decode_cursor(encode_cursor(position), 2) == position


@pytest.mark.parametrize("cursor", ["", "x", "Щ", "bnVsbA", encode_cursor([1]), "AAAA", "W10"])
def test_foreign_cursor_is_a_422(cursor: str) -> None:
    for read in (
        lambda: decode_cursor(cursor, 2),
        lambda: position_of(cursor, 2, TypeAdapter(tuple[int, int])),
        lambda: position_of(encode_cursor(["x"]), 1, TypeAdapter(int)),
    ):
        with pytest.raises(Problem) as caught:
            read()
        assert (caught.value.status, caught.value.slug) == (422, "invalid-cursor")


def test_uvicorn_sets_up_no_logs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from revisit_chassis import process  # noqa: PLC0415

    given: dict[str, object] = {}
    monkeypatch.setattr(uvicorn, "run", lambda _app, **options: given.update(options))
    process.serve_api(FastAPI(), "127.0.0.1", 0)
    assert given["log_config"] is None
    assert logging.getLogger("uvicorn.error").propagate
