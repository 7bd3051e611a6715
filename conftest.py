"""Fixtures for every test: a real PostgreSQL cluster and a real broker, one of each for a test process."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from standalone.broker import EmbeddedBroker
from standalone.cluster import Cluster
from standalone.postgres import Tuning


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A throw-away cluster; `postgres.create("booking")` gives a migrated database with its users."""
    cluster = Cluster(tmp_path_factory.mktemp("postgres"), Tuning(durable=False))
    cluster.start()
    yield cluster
    cluster.stop()
    cluster.remove()


@pytest.fixture(scope="session")
def bootstrap_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a broker: Apache Kafka where REVISIT_TEST_KAFKA names one, else the embedded one."""
    if given := os.environ.get("REVISIT_TEST_KAFKA"):
        yield given
        return
    embedded = EmbeddedBroker(Path(tmp_path_factory.mktemp("broker")) / "broker.log")
    embedded.start()
    yield embedded.bootstrap_servers
    embedded.stop()


@pytest.fixture(scope="session")
def is_apache_kafka() -> bool:
    """Whether the broker is Apache Kafka."""
    return "REVISIT_TEST_KAFKA" in os.environ


IMPURE = {"postgres", "bootstrap_servers", "platform"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as pure whatever needs no database, broker or process: `make test-fast` runs those."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        other = any(item.get_closest_marker(name) for name in ("data", "e2e", "broker"))
        if not names & IMPURE and not other:
            item.add_marker("pure")
