"""Every route with a token of another clinic: what is asked, counted and changed is never a neighbour's.

Both clinics know things by the same ids. What clinic B is told must not depend on what clinic A has,
and nothing that B does may change a row of A.
"""

import asyncio
import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from tests.apps import SERVICES, Keys, make_app
from tests.history import (
    BATCH,
    NOW,
    SECRET_OF,
    STEPS,
    Site,
    appointment_for,
    events_of,
    fill,
    ids_of,
)
from tests.live import live

from revisit_chassis.clock import SimulatedClock
from revisit_events.kafka import attributes
from standalone.cluster import Cluster

CLINIC_A, CLINIC_B = uuid.UUID(int=0xAA), uuid.UUID(int=0xBB)
SECRET = SECRET_OF[CLINIC_A]
TOKENLESS = ("/a/", "/u/", "/s/", "/v1/callbacks/", "/asyncapi", "/schemas/")
"""Pages of patients and of machines: they take no token of a clinic."""
VOLATILE = {"as_of", "instance"}
EXAMPLES = 3
IDLE = {
    # What was refused is refused again: nothing has been put right meanwhile.
    ("POST", "/v1/rejected-events/{rejected_event_id}/replays"),
}
"""Routes at which the owner gets nowhere in this walk."""
VALID: dict[str, dict[str, object]] = {
    "/v1/clinics/{clinic_id}": {
        "name": "Walk",
        "time_zone": "Europe/Berlin",
        "language": "en",
        "country": "DE",
        "currency": "EUR",
    },
    "/v1/appointments/{appointment_id}/rescheduling": {
        "starts_at": (NOW + timedelta(days=5)).isoformat()
    },
    "/v1/appointments/{appointment_id}/cancellation": {"by": "patient", "reason_code": "illness"},
    "/v1/appointments/{appointment_id}/completion": {"kind": "check_up", "outcome": "healthy"},
}
"""Bodies for routes at which a random one has hardly a chance."""
NEVER_SEEN = str(uuid.UUID(int=0xDEAD))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.generate(tmp_path_factory.mktemp("keys"))


@pytest.fixture(params=SERVICES)
def site(request: pytest.FixtureRequest, postgres: Cluster, keys: Keys) -> Iterator[Site]:
    service = request.param
    database = postgres.create(service)
    name = database.database_url.rsplit("/", 1)[1]
    url = postgres.server.url(name, "postgres", postgres.server.superuser_password)
    app = make_app(service, database, keys, SimulatedClock(NOW))
    schema = schemathesis.openapi.from_dict(app.openapi())
    results: Any = schema.get_all_operations()
    operations = [found.ok() for found in results]
    operations = [one for one in operations if not one.path.startswith(TOKENLESS)]
    with live(app) as address, httpx.Client(base_url=address, timeout=20) as client:
        yield Site(service, database, url, client, keys, operations)


def told(site: Site, clinic_id: uuid.UUID, ids: dict[str, list[str]]) -> dict[str, Any]:
    """Everything a clinic can read, by address."""
    answers = {}
    for operation in site.operations:
        if operation.method.upper() != "GET":
            continue
        for path in _paths(operation.path, ids):
            answer = site.client.get(path, headers=site.headers(clinic_id))
            answers[path] = (answer.status_code, _steady(answer))
    return answers


def _steady(answer: httpx.Response) -> Any:
    body = answer.json()
    return {k: v for k, v in body.items() if k not in VOLATILE} if isinstance(body, dict) else body


def _paths(path: str, ids: dict[str, list[str]]) -> list[str]:
    if "{" not in path:
        return [path]
    name = path[path.index("{") + 1 : path.index("}")]
    values = ids.get(name) or [NEVER_SEEN]
    return [
        filled for value in values for filled in _paths(path.replace(f"{{{name}}}", value), ids)
    ]


async def _rows(site: Site, clinic_id: uuid.UUID) -> dict[str, str]:
    """A digest of all rows of a clinic, by table."""
    connection = await asyncpg.connect(site.superuser_url)
    tables = await connection.fetch(
        "SELECT DISTINCT table_name FROM information_schema.columns c "
        "JOIN pg_class ON oid = format('public.%I', table_name)::regclass AND NOT relispartition "
        "WHERE table_schema = 'public' AND column_name = 'clinic_id'"
    )
    found = {}
    for row in tables:
        table = row["table_name"]
        found[table] = await connection.fetchval(
            f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) "
            f'FROM "{table}" t WHERE clinic_id = $1',
            clinic_id,
        )
    await connection.close()
    return found


@pytest.mark.filterwarnings("ignore")
def test_a_neighbour_is_neither_seen_nor_counted(site: Site) -> None:
    fill(site, CLINIC_B)
    own = asyncio.run(ids_of(site, CLINIC_B))
    alone = told(site, CLINIC_B, own)
    fill(site, CLINIC_A)
    fill(site, CLINIC_A, salt="-more")
    assert told(site, CLINIC_B, own) == alone
    idle = {
        operation.path
        for operation in site.operations
        if operation.method.upper() == "GET"
        and not any(alone[path][0] < 300 for path in _paths(operation.path, own))
    }
    assert not idle, idle
    # Ids that only the neighbour has are ids that nobody has.
    theirs = asyncio.run(ids_of(site, CLINIC_A))
    for operation in site.operations:
        name = operation.path.partition("{")[2].partition("}")[0]
        if operation.method.upper() != "GET" or not name:
            continue
        nobodys = _asked(site, operation.path, name, NEVER_SEEN)
        for value in set(theirs.get(name, ())) - set(own.get(name, ())):
            assert _asked(site, operation.path, name, value) == nobodys, operation.path
    _ask_by_query(site, own, theirs)


def _ask_by_query(site: Site, own: dict[str, list[str]], theirs: dict[str, list[str]]) -> None:
    """Nor does a filter by a neighbour's id or a neighbour's place in a list tell anything."""
    for operation in site.operations:
        if operation.method.upper() != "GET" or "{" in operation.path:
            continue
        named = {parameter.name for parameter in operation.query}
        for name in named & theirs.keys():
            nobodys = _filtered(site, operation.path, name, NEVER_SEEN)
            for value in set(theirs[name]) - set(own.get(name, ())):
                assert _filtered(site, operation.path, name, value) == nobodys, operation.path
        if "cursor" in named:
            _ask_by_cursor(site, operation.path)


def _filtered(site: Site, path: str, name: str, value: str) -> tuple[int, str]:
    answer = site.client.get(path, params={name: value}, headers=site.headers(CLINIC_B))
    assert SECRET not in answer.text
    return answer.status_code, json.dumps(_steady(answer)).replace(value, "")


def _ask_by_cursor(site: Site, path: str) -> None:
    theirs = site.client.get(path, params={"limit": 1}, headers=site.headers(CLINIC_A)).json()
    mine = site.client.get(path, params={"limit": 200}, headers=site.headers(CLINIC_B)).json()
    if theirs.get("next") is None:
        return
    answer = site.client.get(
        path, params={"limit": 200, "cursor": theirs["next"]}, headers=site.headers(CLINIC_B)
    )
    assert answer.status_code in {200, 422}, answer.text
    if answer.status_code == 200:
        assert all(item in mine["items"] for item in answer.json()["items"]), path


def _asked(site: Site, path: str, name: str, value: str) -> tuple[int, str]:
    answer = site.client.get(path.replace(f"{{{name}}}", value), headers=site.headers(CLINIC_B))
    assert SECRET not in answer.text
    return answer.status_code, json.dumps(_steady(answer)).replace(value, "")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(240)
def test_nothing_of_a_neighbour_is_changed(site: Site) -> None:
    fill(site, CLINIC_A)
    fill(site, CLINIC_B)
    mine = asyncio.run(ids_of(site, CLINIC_B))
    ids = {
        name: sorted({*values, *mine.get(name, ())})
        for name, values in asyncio.run(ids_of(site, CLINIC_A)).items()
    }
    before = asyncio.run(_rows(site, CLINIC_A))
    idle = set()
    for operation in site.operations:
        if operation.method.upper() == "GET":
            continue
        answers: list[int] = []
        for path in _paths(operation.path, _untouched(operation.path, ids)):
            _try(site, operation, path, answers)
        if not any(status < 300 for status in answers):
            idle.add((operation.method.upper(), operation.path, tuple(sorted(set(answers)))))
    assert asyncio.run(_rows(site, CLINIC_A)) == before
    there = {(one.method.upper(), one.path) for one in site.operations}
    assert {one[:2] for one in idle} == IDLE & there, idle


def _untouched(path: str, ids: dict[str, list[str]]) -> dict[str, list[str]]:
    """Ids for a route, without the appointments that wait for another step of their life."""
    step = path.rpartition("/")[2]
    others = {appointment_for(one) for one in STEPS if one != step}
    if step not in STEPS:
        return ids
    kept = [one for one in ids["appointment_id"] if one not in others]
    return ids | {"appointment_id": sorted({*kept, appointment_for(step)})}


def _try(site: Site, operation: Any, path: str, answers: list[int]) -> None:
    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    def walk(case: Any) -> None:
        request = case.as_transport_kwargs(base_url=str(site.client.base_url))
        headers = site.headers(CLINIC_B)
        body = request.get("json")
        if path == "/v1/events":
            headers["Content-Type"] = BATCH
            body = [
                attributes(e) | {"data": json.loads(e.data_json())}
                for e in events_of(CLINIC_A, site.service, "-forged")
            ]
        answer = site.client.request(request["method"], path, json=body, headers=headers)
        assert answer.status_code < 500, f"{path}: {answer.text}"
        answers.append(answer.status_code)

    if operation.method.upper() != "GET" and (body := VALID.get(operation.path)) is not None:
        answer = site.client.request(
            operation.method, path, json=body, headers=site.headers(CLINIC_B)
        )
        answers.append(answer.status_code)
    walk()
