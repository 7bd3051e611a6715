"""An Idempotency-Key does its work once, whatever happens in between."""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import Database
from revisit_chassis.http import ChassisDep, ClinicId
from revisit_chassis.idempotency import IN_FLIGHT_SECONDS, IdempotencyKey, once
from revisit_chassis.retention import purge
from revisit_chassis.schema import audit_entry, idempotency_key

Served = Callable[[Callable[[FastAPI], None]], AbstractAsyncContextManager[httpx.AsyncClient]]
KEY = {"Idempotency-Key": "k-1"}


class Works:
    """A creating route that counts its effects in the database and can be held up or fail."""

    def __init__(self, database: Database, clinic_id: uuid.UUID) -> None:
        self.database = database
        self.clinic_id = clinic_id
        self.gates: list[asyncio.Event] = []
        self.started = asyncio.Event()
        self.fails = False

    def routes(self, app: FastAPI) -> None:
        @app.post("/v1/things")
        async def make(
            request: Request, state: ChassisDep, clinic_id: ClinicId, key: IdempotencyKey = None
        ) -> Response:
            return await once(request, state.database, clinic_id, key, self.work)

    async def work(self, connection: AsyncConnection) -> Response:
        gate = self.gates.pop(0) if self.gates else None
        entry = audit_entry.insert().values(
            clinic_id=self.clinic_id, actor="x", action="make", record="1", at=datetime.now(UTC)
        )
        await connection.execute(entry)
        self.started.set()
        if gate is not None:
            await gate.wait()
        if self.fails:
            raise RuntimeError
        return Response("Щербакова", 201, headers={"ETag": '"1"'}, media_type="text/plain")

    async def effects(self) -> int:
        async with self.database.transaction((self.clinic_id,)) as connection:
            return len((await connection.execute(audit_entry.select())).all())

    async def age(self, delta: timedelta) -> None:
        async with self.database.transaction((self.clinic_id,)) as connection:
            await connection.execute(
                idempotency_key.update().values(created_at=datetime.now(UTC) - delta)
            )

    async def keys(self) -> list[bytes | None]:
        async with self.database.transaction((self.clinic_id,)) as connection:
            return [row.answer for row in await connection.execute(idempotency_key.select())]


@pytest.fixture
def works(database: Database, clinic_id: uuid.UUID) -> Works:
    return Works(database, clinic_id)


async def test_repeat_gets_the_stored_answer_and_changes_nothing(
    served: Served, works: Works
) -> None:
    async with served(works.routes) as client:
        first = await client.post("/v1/things", content=b"a", headers=KEY)
        again = await client.post("/v1/things", content=b"a", headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content == "Щербакова".encode()
    assert again.headers["etag"] == '"1"'
    assert await works.effects() == 1


async def test_stored_answer_is_encrypted(served: Served, works: Works) -> None:
    async with served(works.routes) as client:
        await client.post("/v1/things", headers=KEY)
    (stored,) = await works.keys()
    assert stored is not None
    assert "Щербакова".encode() not in stored


async def test_other_body_is_422(served: Served, works: Works) -> None:
    async with served(works.routes) as client:
        await client.post("/v1/things", content=b"a", headers=KEY)
        other = await client.post("/v1/things", content=b"b", headers=KEY)
    assert (other.status_code, other.json()["type"]) == (422, "/problems/key-reused")
    assert await works.effects() == 1


async def test_without_a_key_each_request_works(served: Served, works: Works) -> None:
    async with served(works.routes) as client:
        await client.post("/v1/things")
        await client.post("/v1/things")
    assert await works.effects() == 2


async def test_repeat_in_flight_is_409(served: Served, works: Works) -> None:
    works.gates = [asyncio.Event()]
    (gate,) = works.gates
    async with served(works.routes) as client, asyncio.TaskGroup() as group:
        first = group.create_task(client.post("/v1/things", headers=KEY))
        await works.started.wait()
        second = await client.post("/v1/things", headers=KEY)
        assert (second.status_code, second.headers["retry-after"]) == (409, "1")
        gate.set()
    assert first.result().status_code == 201
    assert await works.effects() == 1


async def test_failed_work_gives_the_key_back(served: Served, works: Works) -> None:
    works.fails = True
    async with served(works.routes) as client:
        assert (await client.post("/v1/things", headers=KEY)).status_code == 500
        works.fails = False
        assert (await client.post("/v1/things", headers=KEY)).status_code == 201
    assert await works.effects() == 1


async def test_claim_of_a_process_that_died_is_taken_over(
    served: Served, works: Works, clinic_id: uuid.UUID
) -> None:
    async with works.database.transaction((clinic_id,)) as connection:
        digest = __import__("hashlib").blake2b(b"", digest_size=16).digest()
        await connection.execute(
            idempotency_key.insert().values(
                clinic_id=clinic_id,
                route="POST /v1/things",
                key="k-1",
                body_digest=digest,
                created_at=datetime.now(UTC) - timedelta(seconds=IN_FLIGHT_SECONDS + 1),
            )
        )
    async with served(works.routes) as client:
        assert (await client.post("/v1/things", headers=KEY)).status_code == 201
    assert await works.effects() == 1


async def test_slow_request_whose_claim_was_taken_over_undoes_its_work(
    served: Served, works: Works
) -> None:
    gate = asyncio.Event()
    works.gates = [gate]
    async with served(works.routes) as client, asyncio.TaskGroup() as group:
        slow = group.create_task(client.post("/v1/things", headers=KEY))
        await works.started.wait()
        await works.age(timedelta(seconds=IN_FLIGHT_SECONDS + 1))
        repeat = await client.post("/v1/things", headers=KEY)
        gate.set()
    assert repeat.status_code == 201
    assert slow.result().status_code == 409
    assert await works.effects() == 1
    async with served(works.routes) as client:
        assert (await client.post("/v1/things", headers=KEY)).status_code == 201
    assert await works.effects() == 1


async def test_stored_answer_is_deleted_after_a_day(
    served: Served, works: Works, worker_database: Database
) -> None:
    async with served(works.routes) as client:
        await client.post("/v1/things", headers=KEY)
    for delta, left in ((timedelta(hours=23), 1), (timedelta(hours=25), 0)):
        await works.age(delta)
        async with worker_database.connect() as connection:
            await purge(connection)
        assert len(await works.keys()) == left
