"""Fixtures of engagement's tests: the app over HTTP, and the sender with scripted providers."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from services.engagement.tests.sending import NOON, Practice, practice
from tests.apps import Keys, make_app, serving

from revisit_chassis.clock import SimulatedClock
from revisit_chassis.crypto import generate_keyring
from revisit_chassis.db import Database
from standalone.cluster import Cluster, ServiceDatabase

Open = Callable[..., Awaitable[Practice]]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys.generate(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def service_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("engagement")


@pytest.fixture
async def database(service_database: ServiceDatabase) -> AsyncIterator[Database]:
    database = Database(service_database.database_url)
    yield database
    await database.close()


@pytest.fixture
def clinic_id() -> uuid.UUID:
    return uuid.uuid4()


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(datetime(2026, 3, 2, 9, tzinfo=UTC))


@pytest.fixture
async def site(
    service_database: ServiceDatabase, keys: Keys, clock: SimulatedClock, clinic_id: uuid.UUID
) -> AsyncIterator[httpx.AsyncClient]:
    """Calls the app as an admin of the clinic."""
    async with serving(make_app("engagement", service_database, keys, clock)) as client:
        client.headers.update(keys.headers(clinic_id))
        yield client


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    path = tmp_path / "keyring.json"
    generate_keyring(path)
    return path


@pytest.fixture
async def open_practice(service_database: ServiceDatabase, keyring: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def make(now: datetime = NOON, **clinic: Any) -> Practice:
            return await stack.enter_async_context(
                practice(service_database, keyring, now, **clinic)
            )

        yield make


@pytest.fixture
async def clinic(open_practice: Open) -> Practice:
    return await open_practice()
