"""Every operation of every API, fuzzed by its own OpenAPI document: no 5xx, every error a problem.

The app lives in one event loop for the whole walk, as it does in a process.
"""

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
from tests.live import live

from standalone.cluster import Cluster

EXAMPLES = 10
CLINIC = uuid.UUID(int=0xF)
WAYS = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.generate(tmp_path_factory.mktemp("keys"))


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("service", SERVICES)
def test_no_request_breaks_an_api(service: str, postgres: Cluster, keys: Keys) -> None:
    app = make_app(service, postgres.create(service), keys)
    schema = schemathesis.openapi.from_dict(app.openapi())
    with live(app) as url, httpx.Client(base_url=url, timeout=20) as client:
        results: Any = schema.get_all_operations()
        for found in results:
            for way in WAYS:
                _fuzz(found.ok(), way, client, keys)


def _fuzz(operation: Any, way: GenerationMode, client: httpx.Client, keys: Keys) -> None:
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
        request = case.as_transport_kwargs(base_url=str(client.base_url))
        request.pop("verify", None)
        request["headers"] = _headers(request.get("headers") or {}) | keys.headers(CLINIC)
        _judge(_send(client, request), case)

    try:
        walk()
    except Unsatisfiable:
        # Nothing can be wrong about a request without parameters and body.
        assert way is GenerationMode.NEGATIVE


def _headers(given: Any) -> dict[str, str]:
    return {
        name: value
        for name, value in dict(given).items()
        if isinstance(value, str) and value.isprintable() and value.isascii()
    }


def _send(client: httpx.Client, request: dict[str, Any]) -> httpx.Response:
    return client.request(
        request["method"],
        request["url"],
        params=request.get("params"),
        headers=request["headers"],
        json=request.get("json"),
        content=request.get("data") if isinstance(request.get("data"), bytes | str) else None,
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
