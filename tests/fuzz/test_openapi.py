"""Every operation of every API, fuzzed by its own OpenAPI document: no 5xx, every error a problem.

The app lives in one event loop for the whole walk, as it does in a process.
"""

import asyncio
import random
import uuid
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from tests.apps import SERVICES, Keys, make_app
from tests.history import NOW, Site, fill, ids_of
from tests.live import live

from booking.roles import SCOPES
from revisit_chassis.clock import SimulatedClock
from standalone.cluster import Cluster

EXAMPLES = 12
CLINIC = uuid.UUID(int=0xF)
WAYS = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
NOT_OF_A_CLINIC = ("/asyncapi", "/schemas/")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.generate(tmp_path_factory.mktemp("keys"))


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("service", SERVICES)
def test_no_request_breaks_an_api(service: str, postgres: Cluster, keys: Keys) -> None:
    database = postgres.create(service)
    name = database.database_url.rsplit("/", 1)[1]
    superuser = postgres.server.url(name, "postgres", postgres.server.superuser_password)
    app = make_app(service, database, keys, SimulatedClock(NOW))
    results: Any = schemathesis.openapi.from_dict(app.openapi()).get_all_operations()
    operations = [found.ok() for found in results]
    with live(app) as url, httpx.Client(base_url=url, timeout=20) as client:
        site = Site(service, database, superuser, client, keys, operations)
        # Most ways to fail lie behind a row that is found.
        fill(site, CLINIC)
        ids = asyncio.run(ids_of(site, CLINIC))
        done: set[int] = set()
        for operation in operations:
            for way in WAYS:
                _fuzz(operation, way, site, ids, done)
    assert {200, 201, 404, 422} <= done or service == "scoring", done


def _fuzz(
    operation: Any,
    way: GenerationMode,
    site: Site,
    ids: dict[str, list[str]],
    done: set[int],
) -> None:
    client = site.client
    dice = random.Random(f"{operation.method} {operation.path} {way}")

    @seed(1)
    @settings(
        max_examples=EXAMPLES // len(WAYS),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=way))
    def walk(case: Any) -> None:
        for name in case.path_parameters or {}:
            if (known := ids.get(name)) and dice.random() < 0.7:
                case.path_parameters[name] = dice.choice(known)
        request = case.as_transport_kwargs(base_url=str(client.base_url))
        request["headers"] = _headers(request.get("headers") or {}) | _token(site.keys, dice)
        answer = _send(client, request)
        done.add(answer.status_code)
        _judge(answer, case)

    try:
        walk()
    except Unsatisfiable:
        # Nothing can be wrong about a request without parameters and body.
        assert way is GenerationMode.NEGATIVE


def _token(keys: Keys, dice: random.Random) -> dict[str, str]:
    """Mostly a clinic's admin; now and then somebody with less, the platform, or nobody."""
    who = dice.random()
    if who < 0.7:
        return keys.headers(CLINIC)
    if who < 0.9:
        return keys.headers(CLINIC, dice.choice(sorted(SCOPES)))
    return keys.headers(None) if who < 0.96 else {}


def _headers(given: Any) -> dict[str, str]:
    return {
        name: value
        for name, value in dict(given).items()
        if isinstance(value, str) and value.isprintable() and value.isascii()
    }


def _send(client: httpx.Client, request: dict[str, Any]) -> httpx.Response:
    data = request.get("data")
    return client.request(
        request["method"],
        request["url"],
        params=request.get("params"),
        headers=request["headers"],
        json=request.get("json"),
        content=data if isinstance(data, bytes | str) else None,
        data=data if isinstance(data, dict) else None,
        cookies=None,
    )


def _judge(answer: httpx.Response, case: Any) -> None:
    what = f"{case.method} {answer.request.url}: {answer.status_code} {answer.text[:500]}"
    assert answer.status_code < 500, what
    if answer.status_code < 400:
        return
    kind = answer.headers.get("content-type", "")
    if case.path.startswith(("/a/", "/u/", "/s/")):
        # A patient's page: an error is a page as well.
        assert kind.startswith(("text/html", "application/problem+json")), what
        return
    assert kind == "application/problem+json", what
    problem = answer.json()
    assert problem["status"] == answer.status_code, what
    assert problem["type"].startswith("/problems/"), what
    assert problem["title"], what


def test_apps_describe_themselves(keys: Keys, postgres: Cluster) -> None:
    for service in SERVICES:
        app: FastAPI = make_app(service, postgres.prepare(service), keys)
        assert app.openapi()["openapi"].startswith("3.")
