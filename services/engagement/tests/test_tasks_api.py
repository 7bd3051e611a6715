"""Contact tasks, the 2Z statement and releases over HTTP."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from engagement.tasks import api as tasks_api
from engagement.tasks.domain import NewTask, Reason
from engagement.tasks.usecases import open_tasks
from engagement.two_z import api as two_z_api
from engagement.two_z import usecases
from engagement.two_z.schedule import TwoZRepair
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_chassis.http import ChassisState, create_service_app
from revisit_chassis.identifiers import canonical_id
from revisit_chassis.problem import DomainError
from revisit_chassis.tokens import Signer, Verifier, generate_signing_key, jwks_of
from standalone.cluster import Cluster, ServiceDatabase

NOW = datetime(2026, 3, 2, 6, tzinfo=UTC)
SCOPES = ("tasks:read", "tasks:write", "two-z:read", "releases:write")
TokenMaker = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def service_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("engagement")


@pytest.fixture(scope="module")
def signing_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "signing.pem"
    generate_signing_key(path)
    path.with_suffix(".jwks").write_text(json.dumps(jwks_of(path)))
    return path


@pytest.fixture
def clinic_id() -> uuid.UUID:
    return uuid.uuid4()


@pytest.fixture
def token(signing_key: Path, clinic_id: uuid.UUID) -> TokenMaker:
    def make(*scopes: str, clinic: uuid.UUID = clinic_id, sub: str = "anna") -> dict[str, str]:
        text = Signer(signing_key).issue(
            sub=sub,
            clinic_id=clinic,
            scopes=scopes or SCOPES,
            role="call_centre",
            lifetime_seconds=600,
        )
        return {"Authorization": f"Bearer {text}"}

    return make


@pytest.fixture
async def database(service_database: ServiceDatabase) -> AsyncIterator[Database]:
    database = Database(service_database.database_url)
    yield database
    await database.close()


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(NOW)


@pytest.fixture
async def client(
    database: Database, signing_key: Path, clock: SimulatedClock, token: TokenMaker
) -> AsyncIterator[httpx.AsyncClient]:
    app: FastAPI = create_service_app(title="Tasks", problems=tasks_api.PROBLEMS)
    app.include_router(tasks_api.router)
    app.include_router(two_z_api.router)
    verifier = Verifier(str(signing_key.with_suffix(".jwks")))
    app.state.chassis = ChassisState("engagement", database, verifier, clock)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://engagement", headers=token()
    ) as client:
        yield client


@pytest.fixture
def opened(database: Database, clinic_id: uuid.UUID) -> "Opened":
    async def open_one(
        reason: str = Reason.LOW_SCORE, due_at: datetime = NOW, patient: str = "P-1"
    ) -> uuid.UUID:
        task = NewTask(
            clinic_id, canonical_id(clinic_id, "patient", patient), reason, uuid.uuid4(), due_at
        )
        async with database.transaction([clinic_id]) as connection:
            assert await open_tasks(connection, [task], NOW) == 1
        return task.task_id

    return open_one


Opened = Callable[..., Awaitable[uuid.UUID]]


async def test_list_gives_pages_in_the_order_of_due_times(
    client: httpx.AsyncClient, opened: Opened
) -> None:
    expected = [str(await opened(due_at=NOW + timedelta(hours=n))) for n in range(5)]
    found: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/tasks", params=query)).json()
        found += [item["task_id"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == expected


async def test_list_filters_by_reason_state_patient_and_due_time(
    client: httpx.AsyncClient, opened: Opened
) -> None:
    shown = str(await opened(Reason.NO_SHOW, patient="P-7"))
    await opened(Reason.LOW_SCORE, NOW + timedelta(days=1), patient="P-8")
    for query in (
        {"reason": "no_show"},
        {"patient_id": "P-7"},
        {"due_before": (NOW + timedelta(hours=1)).isoformat()},
    ):
        items = (await client.get("/v1/tasks", params=query)).json()["items"]
        assert [item["task_id"] for item in items] == [shown]
    assert (await client.get("/v1/tasks", params={"state": "closed"})).json()["items"] == []
    assert len((await client.get("/v1/tasks", params={"state": "all"})).json()["items"]) == 2


async def test_task_shows_its_script_in_the_patients_language(
    client: httpx.AsyncClient, opened: Opened, database: Database, clinic_id: uuid.UUID
) -> None:
    task_id = await opened()
    assert (await client.get(f"/v1/tasks/{task_id}")).json()["script"]["language"] == "ru"
    async with database.transaction([clinic_id]) as connection:
        await connection.execute(
            sa.text("INSERT INTO patient (clinic_id, patient_id, language) VALUES (:c, :p, 'en')"),
            {"c": clinic_id, "p": canonical_id(clinic_id, "patient", "P-1")},
        )
    script = (await client.get(f"/v1/tasks/{task_id}")).json()["script"]
    assert script["language"] == "en"
    assert script["opening"].startswith("Hello")


async def test_cursor_of_another_list_is_a_problem(client: httpx.AsyncClient) -> None:
    for cursor in ("nonsense", "WzEsMl0", "WyIyMDI2IiwieCJd"):
        answer = await client.get("/v1/tasks", params={"cursor": cursor})
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"


async def test_claims_made_at_once_get_different_tasks(
    client: httpx.AsyncClient, opened: Opened
) -> None:
    tasks = {str(await opened()) for _ in range(4)}
    answers = await asyncio.gather(*(client.post("/v1/task-claims") for _ in range(6)))
    claimed = [answer.json()["task_id"] for answer in answers if answer.status_code == 200]
    assert sorted(claimed) == sorted(tasks)
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [204] * 2


async def test_claim_gives_the_most_pressing_task_that_is_due(
    client: httpx.AsyncClient, opened: Opened
) -> None:
    await opened(Reason.LOW_SCORE, NOW + timedelta(hours=1))
    later = await opened(Reason.NO_SHOW, NOW - timedelta(hours=1), patient="P-2")
    await opened(Reason.UNREACHABLE, NOW - timedelta(days=3))
    assert (await client.post("/v1/task-claims")).json()["task_id"] == str(later)


async def test_claim_can_ask_for_reasons(client: httpx.AsyncClient, opened: Opened) -> None:
    await opened(Reason.LOW_SCORE)
    wanted = await opened(Reason.UNREACHABLE)
    answer = await client.post("/v1/task-claims", json={"reasons": ["unreachable"]})
    assert answer.json()["task_id"] == str(wanted)


async def test_claim_repeated_with_its_key_gives_the_same_task(
    client: httpx.AsyncClient, opened: Opened
) -> None:
    await opened()
    await opened()
    headers = {"Idempotency-Key": "claim-1"}
    first = await client.post("/v1/task-claims", headers=headers)
    assert (await client.post("/v1/task-claims", headers=headers)).json() == first.json()


async def test_attempt_counts_and_puts_off(client: httpx.AsyncClient, opened: Opened) -> None:
    task_id = await opened()
    next_at = (NOW + timedelta(hours=3)).isoformat()
    body = {"result": "no_answer", "minutes": 2, "next_at": next_at}
    answer = await client.post(f"/v1/tasks/{task_id}/attempts", json=body)
    assert answer.status_code == 201
    task = answer.json()
    assert (task["attempts"], task["minutes"], task["snoozes_left"]) == (1, 2, 2)
    assert (await client.post("/v1/task-claims")).status_code == 204


async def test_fourth_delay_is_refused(client: httpx.AsyncClient, opened: Opened) -> None:
    task_id = await opened()
    answers = []
    for number in range(1, 5):
        body = {"result": "busy", "next_at": (NOW + timedelta(hours=number)).isoformat()}
        answers.append(await client.post(f"/v1/tasks/{task_id}/attempts", json=body))
    assert [answer.status_code for answer in answers] == [201, 201, 201, 409]
    assert answers[-1].json()["type"] == "/problems/snooze-limit-reached"
    assert (await client.get(f"/v1/tasks/{task_id}")).json()["attempts"] == 3


@pytest.mark.parametrize("body", [{}, {"outcome": "whatever"}, {"outcome": None}])
async def test_close_without_a_valid_outcome_is_refused(
    client: httpx.AsyncClient, opened: Opened, body: dict[str, object]
) -> None:
    task_id = await opened()
    assert (await client.post(f"/v1/tasks/{task_id}/outcome", json=body)).status_code == 422
    assert (await client.get(f"/v1/tasks/{task_id}")).json()["state"] == "open"


async def test_outcome_closes_once(client: httpx.AsyncClient, opened: Opened) -> None:
    path = f"/v1/tasks/{await opened()}/outcome"
    first = await client.post(path, json={"outcome": "declined", "minutes": 5})
    assert (first.status_code, first.json()["outcome"]) == (200, "declined")
    assert first.json()["closed_by"] == "anna"
    again = await client.post(path, json={"outcome": "declined"})
    assert (again.status_code, again.json()) == (200, first.json())
    other = await client.post(path, json={"outcome": "booked"})
    assert (other.status_code, other.json()["type"]) == (409, "/problems/task-closed")


async def test_call_back_leaves_the_task_open(client: httpx.AsyncClient, opened: Opened) -> None:
    path = f"/v1/tasks/{await opened()}/outcome"
    answer = await client.post(path, json={"outcome": "call_back"})
    assert answer.json()["state"] == "open"
    assert answer.json()["snoozes"] == 1


async def test_release_by_outcome_needs_reason_and_scope(
    client: httpx.AsyncClient, opened: Opened, token: TokenMaker
) -> None:
    path = f"/v1/tasks/{await opened()}/outcome"
    without = await client.post(path, json={"outcome": "released"})
    assert without.json()["type"] == "/problems/release-reason-missing"
    body = {"outcome": "released", "release_reason": "moved_away"}
    refused = await client.post(path, json=body, headers=token("tasks:write"))
    assert refused.status_code == 403
    assert (await client.post(path, json=body)).json()["outcome"] == "released"


async def test_unknown_task_is_a_404_problem(client: httpx.AsyncClient) -> None:
    path = f"/v1/tasks/{uuid.uuid4()}"
    answers = [
        await client.get(path),
        await client.post(f"{path}/attempts", json={"result": "busy"}),
        await client.post(f"{path}/outcome", json={"outcome": "declined"}),
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert {answer.json()["type"] for answer in answers} == {"/problems/task-not-found"}


async def test_other_clinics_token_sees_and_changes_nothing(
    client: httpx.AsyncClient, opened: Opened, token: TokenMaker
) -> None:
    task_id = await opened()
    stranger = token(clinic=uuid.uuid4())
    assert (await client.get("/v1/tasks", headers=stranger)).json()["items"] == []
    assert (await client.get(f"/v1/tasks/{task_id}", headers=stranger)).status_code == 404
    path = f"/v1/tasks/{task_id}/outcome"
    answer = await client.post(path, json={"outcome": "declined"}, headers=stranger)
    assert answer.status_code == 404
    assert (await client.post("/v1/task-claims", headers=stranger)).status_code == 204
    assert (await client.get(f"/v1/tasks/{task_id}")).json()["state"] == "open"


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/tasks", "tasks:write"),
        ("POST", "/v1/task-claims", "tasks:read"),
        ("GET", "/v1/two-z", "tasks:read"),
        ("POST", "/v1/patients/P-1/releases", "tasks:write"),
    ],
)
async def test_scope_is_needed(
    client: httpx.AsyncClient, token: TokenMaker, method: str, path: str, scope: str
) -> None:
    body = {"reason": "died"} if path.endswith("releases") else None
    answer = await client.request(method, path, json=body, headers=token(scope))
    assert answer.status_code == 403


async def test_statement_and_release_over_http(
    client: httpx.AsyncClient,
    database: Database,
    service_database: ServiceDatabase,
    clock: SimulatedClock,
    clinic_id: uuid.UUID,
) -> None:
    patient = canonical_id(clinic_id, "patient", "P-1")
    async with database.transaction([clinic_id]) as connection:
        await connection.execute(
            sa.text(
                "INSERT INTO clinic VALUES (:c, 'A', 'Europe/Moscow', 'ru', 'RUB', 'RU', :t, '')"
            ),
            {"c": clinic_id, "t": NOW - timedelta(days=1)},
        )
        await connection.execute(
            sa.text("""
                INSERT INTO visit (clinic_id, visit_id, patient_id, completed_at, precedence)
                VALUES (:c, :v, :p, :t, '')
            """),
            {"c": clinic_id, "v": uuid.uuid4(), "p": patient, "t": NOW},
        )
        await usecases.touch_visits(connection, [(clinic_id, patient, NOW)])
    clock.set(NOW + timedelta(days=1))
    statement = (await client.get("/v1/two-z")).json()
    assert statement["in_scope"] == statement["violations"] == 1
    assert statement["violating_patients"] == {"items": [str(patient)], "next": None}
    assert statement["deadline"] == {"rule": "end_of_clinic_day", "time_zone": "Europe/Moscow"}
    worker = Database(service_database.worker_database_url)
    await TwoZRepair(worker).run_due(clock)
    await worker.close()
    assert (await client.get("/v1/two-z")).json()["task_open"] == 1

    headers = {"Idempotency-Key": "release-1"}
    body = {"reason": "moved_away", "approved_by": "D-14"}
    answer = await client.post("/v1/patients/P-1/releases", json=body, headers=headers)
    assert (answer.status_code, answer.json()["patient_id"]) == (201, str(patient))
    again = await client.post("/v1/patients/P-1/releases", json=body, headers=headers)
    assert again.json() == answer.json()
    statement = (await client.get("/v1/two-z")).json()
    assert (statement["released"], statement["task_open"]) == (1, 0)
    closed = (await client.get("/v1/tasks", params={"state": "closed"})).json()["items"]
    assert [task["outcome"] for task in closed] == ["released"]


async def test_statement_of_an_unknown_clinic_counts_nobody(client: httpx.AsyncClient) -> None:
    statement = (await client.get("/v1/two-z")).json()
    assert statement["in_scope"] == 0
    assert statement["deadline"]["time_zone"] is None


def test_every_error_of_the_tasks_has_a_status() -> None:
    module = "engagement.tasks.domain"
    defined = {kind for kind in DomainError.__subclasses__() if kind.__module__ == module}
    assert defined == set(tasks_api.PROBLEMS)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/tasks?reason=%00", None),
        ("GET", "/v1/tasks?due_before=0001-01-01T00:00:00%2B05:00", None),
        ("GET", "/v1/tasks?limit=201", None),
        ("POST", "/v1/task-claims", {"reasons": ["\x00"]}),
        ("POST", "/v1/patients/P-1/releases", {"reason": "died", "approved_by": "\x00"}),
        ("POST", "/v1/patients/P-1/releases", {"reason": "no idea"}),
        ("POST", f"/v1/patients/{'x' * 65}/releases", {"reason": "died"}),
    ],
)
async def test_what_cannot_be_stored_is_a_422_problem(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, object] | None
) -> None:
    answer = await client.request(method, path, json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
