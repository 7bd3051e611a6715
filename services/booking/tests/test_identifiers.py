"""The clinic's own name of a patient never outlives an erasure, whichever of the two comes first."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from booking.store.named import Identifier, keep_identifiers
from booking.usecases.patients import erase_patient
from revisit_chassis.db import Database, fetch, fetch_value
from standalone.cluster import Cluster

NOW = datetime(2026, 1, 15, 9, tzinfo=UTC)
WAIT_SECONDS = 10
_WAITING = """
SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE NOT granted AND datname = current_database()
"""


@pytest.fixture
async def database(postgres: Cluster) -> AsyncIterator[Database]:
    """Of its own: who waits in it is one of the two."""
    database = Database(postgres.create("booking").database_url, pool_size=3)
    yield database
    await database.close()


@pytest.fixture(params=[True, False], ids=["known patient", "patient nobody told of"])
async def patient(request: pytest.FixtureRequest, database: Database) -> Identifier:
    """How the clinic calls a patient."""
    clinic_id, patient_id = uuid.uuid4(), uuid.uuid4()
    if request.param:
        async with database.transaction((clinic_id,)) as connection:
            await fetch(
                connection,
                "INSERT INTO patient (clinic_id, patient_id) VALUES ($1, $2)",
                clinic_id,
                patient_id,
            )
    return clinic_id, "patient", patient_id, "P-5512"


async def test_an_erasure_waits_for_who_names_the_patient(
    database: Database, patient: Identifier
) -> None:
    async with database.transaction((patient[0],)) as connection:
        await keep_identifiers(connection, [patient])
        erasure = asyncio.create_task(_erase(database, patient))
        await _until_somebody_waits(database)
    await erasure
    assert await _kept(database, patient) == 0


async def test_who_names_a_patient_waits_for_the_erasure(
    database: Database, patient: Identifier
) -> None:
    async with database.transaction((patient[0],)) as connection:
        await erase_patient(connection, patient[0], patient[2], NOW)
        naming = asyncio.create_task(_name(database, patient))
        await _until_somebody_waits(database)
    await naming
    assert await _kept(database, patient) == 0


async def test_a_patient_who_was_not_erased_keeps_the_name(
    database: Database, patient: Identifier
) -> None:
    for _ in range(2):
        await _name(database, patient)
    assert await _kept(database, patient) == 1


async def _name(database: Database, patient: Identifier) -> None:
    async with database.transaction((patient[0],)) as connection:
        await keep_identifiers(connection, [patient])


async def _erase(database: Database, patient: Identifier) -> None:
    async with database.transaction((patient[0],)) as connection:
        await erase_patient(connection, patient[0], patient[2], NOW)


async def _until_somebody_waits(database: Database) -> None:
    async with asyncio.timeout(WAIT_SECONDS), database.connect() as connection:
        waiting = 0
        while not waiting:
            await asyncio.sleep(0.01)
            waiting = await fetch_value(connection, _WAITING)


async def _kept(database: Database, patient: Identifier) -> int:
    async with database.transaction((patient[0],)) as connection:
        number: int = await fetch_value(connection, "SELECT count(*) FROM identifier")
        return number


async def test_name_in_an_event_that_is_refused_leaves_no_trace(
    client: httpx.AsyncClient, store: Any
) -> None:
    good, odd, other = (_registered(n, f"P-{n}") for n in range(3))
    odd["data"]["birth_year"] = 3000
    first = await _post(client, good, odd)
    # The same event with another body: refused only when its identity is claimed.
    second = await _post(client, other, good | {"data": {"patient_id": "P-9"}})
    assert [len(answer["rejected"]) for answer in (first, second)] == [1, 1]
    for query in ("SELECT identifier FROM identifier", "SELECT patient_id FROM patient"):
        assert len(await store.rows(query)) == 2


def _registered(number: int, identifier: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"told-{number}",
        "source": "//mis.example",
        "type": "patient.registered.v1",
        "time": "2026-01-15T08:00:00Z",
        "data": {"patient_id": identifier},
    }


async def _post(client: httpx.AsyncClient, *events: dict[str, Any]) -> Any:
    answer = await client.post(
        "/v1/events",
        json=list(events),
        headers={"Content-Type": "application/cloudevents-batch+json"},
    )
    assert answer.status_code == 202
    return answer.json()
