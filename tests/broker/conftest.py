"""A service's database with its two users, on a real broker."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from revisit_chassis.db import Database
from revisit_events.broker import BrokerWatch, KafkaSettings
from standalone.cluster import Cluster

PARTITIONS_OF_KAFKA = 3


@dataclass(slots=True)
class Side:
    """One service's end of the pipe."""

    database: Database
    worker_database: Database


@pytest.fixture
async def publisher(postgres: Cluster) -> AsyncIterator[Side]:
    """The service that publishes: booking."""
    async for side in _side(postgres, "booking"):
        yield side


@pytest.fixture
async def subscriber(postgres: Cluster) -> AsyncIterator[Side]:
    """The service that consumes: scoring."""
    async for side in _side(postgres, "scoring"):
        yield side


async def _side(postgres: Cluster, service: str) -> AsyncIterator[Side]:
    made = postgres.create(service)
    side = Side(Database(made.database_url, pool_size=4), Database(made.worker_database_url))
    yield side
    await side.database.close()
    await side.worker_database.close()


@pytest.fixture
def group() -> str:
    """A consumer group of the test's own: the tests share one broker."""
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def kafka(bootstrap_servers: str, is_apache_kafka: bool) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers,
        enable_idempotence=is_apache_kafka,
        topic_partitions=PARTITIONS_OF_KAFKA if is_apache_kafka else 1,
        fetch_max_wait_ms=50,
    )


@pytest.fixture
def watch(kafka: KafkaSettings) -> BrokerWatch:
    return BrokerWatch(kafka)
