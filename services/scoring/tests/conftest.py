"""A migrated database of scoring for each test process."""

import uuid
from collections.abc import AsyncIterator

import pytest

from revisit_chassis.db import Database
from standalone.cluster import Cluster, ServiceDatabase


@pytest.fixture(scope="session")
def scoring_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("scoring")


@pytest.fixture
async def database(scoring_database: ServiceDatabase) -> AsyncIterator[Database]:
    found = Database(scoring_database.database_url, pool_size=2)
    yield found
    await found.close()


@pytest.fixture
async def worker_database(scoring_database: ServiceDatabase) -> AsyncIterator[Database]:
    found = Database(scoring_database.worker_database_url, pool_size=2)
    yield found
    await found.close()


@pytest.fixture
def clinic_id() -> uuid.UUID:
    """Each test has a clinic of its own: row-level security keeps the tests apart."""
    return uuid.uuid4()
