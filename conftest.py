"""Fixtures for every test: a real PostgreSQL cluster and a real broker, one of each for a test process."""

import os
import sys
from collections.abc import Generator, Iterator
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
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as pure whatever needs no database, broker or process: `make test-fast` runs those."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        other = any(item.get_closest_marker(name) for name in ("data", "e2e", "broker", "process"))
        if not names & IMPURE and not other:
            item.add_marker("pure")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Fails a pure test that starts a process, in its fixtures too: it is to get a marker instead."""
    global _pure_test  # noqa: PLW0603  (an audit hook cannot be taken away; it looks here)
    _pure_test = item.nodeid if item.get_closest_marker("pure") else ""
    try:
        return (yield)
    finally:
        _pure_test = ""


_pure_test = ""


def _refuse_processes(event: str, arguments: tuple[object, ...]) -> None:  # noqa: ARG001
    if _pure_test and event in STARTS:
        raise RuntimeError(
            f"{_pure_test} starts a process: mark it with `process`, `e2e` or `broker`"
        )


sys.addaudithook(_refuse_processes)
