"""Fixtures of engagement's tests over HTTP: the real app on a migrated database, and its tokens."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
from tests.apps import Keys, make_app, serving

from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from standalone.cluster import Cluster, ServiceDatabase


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
