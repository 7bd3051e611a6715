"""Releases and pauses over HTTP."""

import uuid
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from tests.apps import Keys, tell

from engagement.messages.domain import Channel
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_chassis.identifiers import canonical_id
from revisit_events import testing

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
RELEASES = "/v1/patients/P-1/releases"


async def visited(database: Database, clinic_id: uuid.UUID, at: datetime = NOW) -> None:
    events = [
        testing.clinic_registered(clinic_id=clinic_id, time=NOW, live_from=NOW - timedelta(days=9)),
        testing.visit_completed(
            clinic_id=clinic_id,
            patient_id=canonical_id(clinic_id, "patient", "P-1"),
            appointment_id=None,
            completed_at=at,
            time=at,
        ),
    ]
    await tell("engagement", database, events, at)


async def test_release_ends_the_obligation_and_names_who_approved(
    site: httpx.AsyncClient, database: Database, clinic_id: uuid.UUID, clock: SimulatedClock
) -> None:
    await visited(database, clinic_id)
    clock.set(NOW + timedelta(days=1))
    assert (await site.get("/v1/two-z")).json()["violations"] == 1
    body = {"reason": "treatment_ended", "approved_by": "D-14"}
    answer = await site.post(RELEASES, json=body)
    assert answer.status_code == 201
    assert answer.json() | body == answer.json()
    assert answer.json()["patient_id"] == str(canonical_id(clinic_id, "patient", "P-1"))
    statement = (await site.get("/v1/two-z")).json()
    assert (statement["released"], statement["violations"]) == (1, 0)
    async with database.transaction([clinic_id]) as connection:
        messages = await connection.exec_driver_sql("SELECT state, reason FROM message")
        assert [tuple(row) for row in messages] == [("dropped", "released")]


async def test_release_without_an_approver_names_the_caller(site: httpx.AsyncClient) -> None:
    answer = await site.post(RELEASES, json={"reason": "died"})
    assert answer.json()["approved_by"] == "test"


async def test_release_under_one_key_is_recorded_once(
    site: httpx.AsyncClient, database: Database, clinic_id: uuid.UUID
) -> None:
    headers = {"Idempotency-Key": "release-1"}
    first = await site.post(RELEASES, json={"reason": "moved_away"}, headers=headers)
    again = await site.post(RELEASES, json={"reason": "moved_away"}, headers=headers)
    assert again.json() == first.json()
    other = await site.post(RELEASES, json={"reason": "died"}, headers=headers)
    assert other.status_code == 422
    async with database.transaction([clinic_id]) as connection:
        count = await connection.exec_driver_sql("SELECT count(*) FROM release")
        assert count.scalar_one() == 1


async def test_who_opted_out_shows_as_refusing_everything(site: httpx.AsyncClient) -> None:
    await site.post(RELEASES, json={"reason": "opted_out"})
    answer = (await site.get("/v1/patients/P-1/consents")).json()
    assert {one["state"] for one in answer["consents"]} == {"refused"}
    assert len(answer["consents"]) == 3 * len(Channel)
    assert answer["ledger"]["broken_at"] is None


@pytest.mark.parametrize(
    "body",
    [{}, {"reason": "bored"}, {"reason": "died", "approved_by": ""}, {"reason": "died", "x": 1}],
)
async def test_release_that_says_nothing_is_refused(
    site: httpx.AsyncClient, body: dict[str, object]
) -> None:
    answer = await site.post(RELEASES, json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"]


async def test_role_without_the_scope_releases_nobody(
    site: httpx.AsyncClient, keys: Keys, clinic_id: uuid.UUID
) -> None:
    headers = keys.headers(clinic_id, "clinic_system")
    answer = await site.post(RELEASES, json={"reason": "died"}, headers=headers)
    assert answer.status_code == 403


@pytest.mark.parametrize("scope", ["clinic", "journey:follow-up", "channel:email"])
async def test_pause_is_set_again_and_lifted(
    site: httpx.AsyncClient, database: Database, clinic_id: uuid.UUID, scope: str
) -> None:
    path = f"/v1/pauses/{scope}"
    first = await site.put(path)
    assert first.status_code == 200
    assert first.json() == {
        "scope": scope,
        "reason": "paused by staff",
        "paused_at": "2026-03-02T09:00:00Z",
        "paused_by": "test",
    }
    again = await site.put(path, json={"reason": "power cut"})
    assert (again.status_code, again.json()["reason"]) == (200, "power cut")
    assert await scopes(database, clinic_id) == [scope]
    assert (await site.delete(path)).status_code == 204
    assert (await site.delete(path)).status_code == 204
    assert await scopes(database, clinic_id) == []


async def test_pause_stops_no_other_clinic(
    site: httpx.AsyncClient, database: Database, keys: Keys, clinic_id: uuid.UUID
) -> None:
    await site.put("/v1/pauses/clinic")
    stranger = keys.headers(uuid.uuid4())
    assert (await site.delete("/v1/pauses/clinic", headers=stranger)).status_code == 204
    assert await scopes(database, clinic_id) == ["clinic"]


@pytest.mark.parametrize(
    "scope",
    [
        "everything",
        "journey:",
        "journey:folow-up",
        "channel:pigeon",
        "channel:E-Mail",
        "clinic%20",
        "journey:x%0A",
    ],
)
async def test_pause_of_what_does_not_exist_is_a_problem(
    site: httpx.AsyncClient, scope: str
) -> None:
    for answer in (await site.put(f"/v1/pauses/{scope}"), await site.delete(f"/v1/pauses/{scope}")):
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"


async def test_role_without_the_scope_pauses_nothing(
    site: httpx.AsyncClient, keys: Keys, clinic_id: uuid.UUID
) -> None:
    headers = keys.headers(clinic_id, "clinic_system")
    assert (await site.put("/v1/pauses/clinic", headers=headers)).status_code == 403
    assert (await site.delete("/v1/pauses/clinic", headers=headers)).status_code == 403


async def scopes(database: Database, clinic_id: uuid.UUID) -> list[str]:
    async with database.transaction([clinic_id]) as connection:
        return list((await connection.exec_driver_sql("SELECT scope FROM pause")).scalars())
