"""A migrated database, the API over it, and a curious reader of both."""

import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from booking.app import create_app
from booking.roles import scopes_of
from booking.settings import Settings
from booking.usecases.no_show import NoShowTimer
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.crypto import generate_keyring
from revisit_chassis.db import Database
from revisit_chassis.tokens import Signer, generate_signing_key, jwks_of
from standalone.cluster import Cluster, ServiceDatabase

NOW = datetime(2026, 1, 15, 9, tzinfo=UTC)
CLINIC = {
    "name": "Клиника на Лесной",
    "time_zone": "Europe/Moscow",
    "language": "ru",
    "country": "RU",
    "currency": "RUB",
    "live_from": "2026-01-01T00:00:00Z",
}


@pytest.fixture(scope="session")
def service_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("booking")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    generate_signing_key(tmp_path / "signing.pem")
    (tmp_path / "jwks.json").write_text(json.dumps(jwks_of(tmp_path / "signing.pem")))
    generate_keyring(tmp_path / "keyring.json")
    return tmp_path


@pytest.fixture
def clinic_id() -> uuid.UUID:
    return uuid.uuid4()


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(NOW)


@pytest.fixture
def as_role(keys: Path, clinic_id: uuid.UUID) -> Callable[[str], dict[str, str]]:
    def headers(role: str) -> dict[str, str]:
        token = Signer(keys / "signing.pem").issue(
            sub="olga",
            clinic_id=clinic_id,
            scopes=scopes_of(role, is_platform=False),
            role=role,
            lifetime_seconds=600,
        )
        return {"Authorization": f"Bearer {token}"}

    return headers


@pytest.fixture
def settings(service_database: ServiceDatabase, keys: Path) -> Settings:
    return Settings.model_validate(
        {
            "database_url": service_database.database_url,
            "worker_database_url": service_database.worker_database_url,
            "jwks": str(keys / "jwks.json"),
            "keyring": str(keys / "keyring.json"),
        }
    )


@pytest.fixture
def app(settings: Settings, clock: SimulatedClock) -> FastAPI:
    return create_app(settings, clock=clock)


@pytest.fixture
async def client(
    app: FastAPI, as_role: Callable[[str], dict[str, str]], clinic_id: uuid.UUID
) -> AsyncIterator[httpx.AsyncClient]:
    """Calls as the admin of a registered clinic."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app),
            base_url="http://booking",
            headers=as_role("admin"),
        ) as client,
    ):
        assert (await client.put(f"/v1/clinics/{clinic_id}", json=CLINIC)).status_code == 201
        yield client


class Store:
    """The clinic's rows and published events."""

    def __init__(self, database: Database, worker: Database, clinic_id: uuid.UUID) -> None:
        self.database = database
        self.worker = worker
        self.clinic_id = clinic_id

    async def rows(self, statement: str, **values: object) -> Sequence[sa.Row[Any]]:
        async with self.database.transaction([self.clinic_id]) as connection:
            return (await connection.execute(sa.text(statement), values)).all()

    async def status(self, identifier: str = "A-1") -> str:
        canonical = uuid.uuid5(self.clinic_id, f"appointment:{identifier}")
        (row,) = await self.rows(
            "SELECT status FROM appointment WHERE appointment_id = :id", id=canonical
        )
        return str(row.status)

    async def published(self, topic: str) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
        """Headers and data of the events in the outbox, in order."""
        rows = await self.rows(
            "SELECT headers::json, data FROM outbox WHERE topic = :topic ORDER BY position",
            topic=topic,
        )
        return [(row.headers, row.data and json.loads(row.data)) for row in rows]

    async def run_timer(self, clock: SimulatedClock) -> None:
        timer = NoShowTimer(self.worker)
        while await timer.run_due(clock):
            pass


@pytest.fixture
async def store(service_database: ServiceDatabase, clinic_id: uuid.UUID) -> AsyncIterator[Store]:
    database = Database(service_database.database_url)
    worker = Database(service_database.worker_database_url)
    # The timer sees every clinic: what other tests left open would fall due here.
    yield Store(database, worker, clinic_id)
    async with worker.connect() as connection:
        await connection.exec_driver_sql("UPDATE appointment SET no_show_due_at = NULL")
    await database.close()
    await worker.close()
