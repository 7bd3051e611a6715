"""Every route with a token of another clinic: what is asked, counted and changed is never a neighbour's.

Both clinics know things by the same ids. What clinic B is told must not depend on what clinic A has,
and nothing that B does may change a row of A.
"""

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from tests.apps import SERVICES, Keys, handlers_of, make_app, tell
from tests.live import live

from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_events.catalog import CATALOG
from revisit_events.envelope import AnyEvent, new_event
from revisit_events.kafka import attributes
from revisit_events.testing import BUILDERS, NOON
from standalone.cluster import Cluster, ServiceDatabase

CLINIC_A, CLINIC_B = uuid.UUID(int=0xAA), uuid.UUID(int=0xBB)
SECRET = "Neighbour-7431"
NOW = NOON + timedelta(days=2)
BATCH = "application/cloudevents-batch+json"
TOKENLESS = ("/a/", "/u/", "/s/", "/v1/callbacks/", "/asyncapi", "/schemas/")
"""Pages of patients and of machines: they take no token of a clinic."""
VOLATILE = {"as_of", "instance"}
EXAMPLES = 3
NEVER_SEEN = str(uuid.UUID(int=0xDEAD))


@dataclass(slots=True)
class Site:
    """A running API and its database."""

    service: str
    database: ServiceDatabase
    superuser_url: str
    client: httpx.Client
    keys: Keys
    operations: list[Any]

    def headers(self, clinic_id: uuid.UUID) -> dict[str, str]:
        """Gives the header of a clinic's admin."""
        return self.keys.headers(clinic_id)


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


def events_of(clinic_id: uuid.UUID, service: str, salt: str) -> list[AnyEvent]:
    """An event of every type that comes to a service, from wherever; ids are equal in all clinics."""
    found = []
    for contract in CATALOG.values():
        if service not in (contract.OWNER, *contract.CONSUMERS) or contract.TYPE not in BUILDERS:
            continue
        if "erased" in contract.TYPE or "token." in contract.TYPE:
            continue
        ids: dict[str, Any] = {
            name: uuid.uuid5(uuid.NAMESPACE_OID, f"{name}{salt}")
            for name, field in contract.model_fields.items()
            if name.endswith("_id") and field.annotation in (uuid.UUID, uuid.UUID | None)
        }
        event_id = f"{contract.TYPE}{salt}"
        if ids.pop("clinic_id", None) is None:
            found.append(BUILDERS[contract.TYPE](clinic_id=clinic_id, id=event_id, **ids))
            continue
        data = BUILDERS[contract.TYPE]().data.model_copy(update={"clinic_id": clinic_id})
        found.append(
            new_event(data, source="/booking", clinic_id=clinic_id, time=NOON, id=event_id)
        )
    return found


def fill(site: Site, clinic_id: uuid.UUID, salt: str = "") -> None:
    """Gives a clinic a history."""
    events = events_of(clinic_id, site.service, salt)
    if any(operation.path == "/v1/events" for operation in site.operations):
        posted = [
            attributes(e) | {"data": json.loads(e.data_json())}
            for e in events
            if site.service == e.data.OWNER
        ]
        answer = site.client.post(
            "/v1/events",
            content=json.dumps(posted),
            headers=site.headers(clinic_id) | {"Content-Type": BATCH},
        )
        assert answer.status_code == 202, answer.text
    if site.service == "booking":
        _fill_booking(site, clinic_id)
    consumed = [event for event in events if type(event.data) in handlers_of(site.service)]

    async def consume() -> None:
        database = Database(site.database.database_url, pool_size=1)
        await tell(site.service, database, consumed, NOW)
        await database.close()

    asyncio.run(consume())


def _fill_booking(site: Site, clinic_id: uuid.UUID) -> None:
    secret = SECRET if clinic_id == CLINIC_A else "Doe"
    answer = site.client.put(
        f"/v1/patients/{uuid.uuid5(uuid.NAMESPACE_OID, 'patient_id')}",
        headers=site.headers(clinic_id),
        json={
            "name": {"family": secret, "given": secret},
            "language": "en",
            "contacts": {"email": f"{secret.lower()}@example.org"},
        },
    )
    assert answer.status_code < 300, answer.text


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


async def _ids(site: Site, clinic_id: uuid.UUID) -> dict[str, list[str]]:
    """Ids of a clinic's rows by the name of their column."""
    connection = await asyncpg.connect(site.superuser_url)
    found: dict[str, set[str]] = {
        "key": {"csat", "nps"},
        "kpi": {"visits"},
        "scope": {"all", "reminder"},
        "clinic_id": {str(clinic_id)},
    }
    for table, column in await _columns(connection):
        rows = await connection.fetch(
            f'SELECT DISTINCT "{column}"::text AS id FROM "{table}" WHERE clinic_id = $1 LIMIT 20',
            clinic_id,
        )
        found.setdefault(column, set()).update(row["id"] for row in rows if row["id"])
    await connection.close()
    return {name: sorted(values)[:8] for name, values in found.items()}


async def _columns(connection: Any) -> list[tuple[str, str]]:
    rows = await connection.fetch(
        "SELECT table_name, column_name FROM information_schema.columns c "
        "JOIN pg_class ON oid = format('public.%I', table_name)::regclass AND NOT relispartition "
        "WHERE table_schema = 'public' AND data_type = 'uuid' AND column_name <> 'clinic_id' "
        "AND EXISTS (SELECT 1 FROM information_schema.columns o WHERE o.table_name = c.table_name "
        "AND o.column_name = 'clinic_id')"
    )
    return [(row["table_name"], row["column_name"]) for row in rows]


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
    own = asyncio.run(_ids(site, CLINIC_B))
    alone = told(site, CLINIC_B, own)
    fill(site, CLINIC_A)
    fill(site, CLINIC_A, salt="-more")
    assert told(site, CLINIC_B, own) == alone
    assert any(status == 200 for status, _ in alone.values())
    # Ids that only the neighbour has are ids that nobody has.
    theirs = asyncio.run(_ids(site, CLINIC_A))
    for operation in site.operations:
        name = operation.path.partition("{")[2].partition("}")[0]
        if operation.method.upper() != "GET" or not name:
            continue
        nobodys = _asked(site, operation.path, name, NEVER_SEEN)
        for value in set(theirs.get(name, ())) - set(own.get(name, ())):
            assert _asked(site, operation.path, name, value) == nobodys, operation.path


def _asked(site: Site, path: str, name: str, value: str) -> tuple[int, str]:
    answer = site.client.get(path.replace(f"{{{name}}}", value), headers=site.headers(CLINIC_B))
    assert SECRET not in answer.text
    return answer.status_code, json.dumps(_steady(answer)).replace(value, "")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(240)
def test_nothing_of_a_neighbour_is_changed(site: Site) -> None:
    fill(site, CLINIC_A)
    fill(site, CLINIC_B)
    ids = asyncio.run(_ids(site, CLINIC_A))
    before = asyncio.run(_rows(site, CLINIC_A))
    answers: list[int] = []
    for operation in site.operations:
        if operation.method.upper() != "GET":
            for path in _paths(operation.path, ids):
                _try(site, operation, path, answers)
    assert asyncio.run(_rows(site, CLINIC_A)) == before
    assert any(status < 300 for status in answers), "no request of the walk did anything at all"


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

    walk()
