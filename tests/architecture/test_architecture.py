"""Rules of the repository's shape that a linter does not know."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from tests.apps import SERVICES, handlers_of

from revisit_events.catalog import CATALOG
from standalone.cluster import Cluster

ROOT = Path(__file__).parents[2]
PACKAGES = ("revisit_chassis", "revisit_events", *SERVICES, "standalone")
MOST_LINES = 500
TECHNICAL = {
    "alembic_version",
    "broker_state",
    "relay_position",
    "outbox_refill",
    "feed_mark",
    "consumer_attempt",
}
NO_KEY = {
    "outbox_unsent": "the relay's queue: its order is its key, and it holds nothing but positions",
}
PROBE = """
import asyncio, importlib, os, socket, sys, threading
def refuse(*_, **__):
    raise AssertionError("an import opened a socket or a process")
socket.socket.connect = refuse
os.environ.clear()
before = set(os.listdir("."))
for name in sys.argv[1:]:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
assert set(os.listdir(".")) == before, "an import wrote a file"
"""


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_handles_what_the_contracts_say_it_consumes(service: str) -> None:
    named = {contract for contract in CATALOG.values() if service in contract.CONSUMERS}
    assert set(handlers_of(service)) == named


def test_every_event_has_one_owner_that_exists() -> None:
    assert {contract.OWNER for contract in CATALOG.values()} <= set(SERVICES)


@pytest.mark.process
@pytest.mark.parametrize("package", PACKAGES)
def test_imports_work_and_do_nothing(package: str, tmp_path: Path) -> None:
    found = importlib.import_module(package)
    names = [
        module.name
        for module in pkgutil.walk_packages(found.__path__, f"{package}.")
        if not module.name.endswith("__main__") and ".migrations" not in module.name
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-B", "-c", PROBE, *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""


@pytest.mark.parametrize("service", SERVICES)
async def test_every_table_is_keyed_by_clinic(service: str, postgres: Cluster) -> None:
    database = postgres.create(service)
    connection = await asyncpg.connect(database.owner_database_url)
    rows = await connection.fetch(
        """
        SELECT c.relname AS name, a.attname AS first
        FROM pg_class c
        LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
          AND NOT c.relispartition
        """
    )
    await connection.close()
    exceptions = TECHNICAL | NO_KEY.keys()
    wrong = [
        row["name"] for row in rows if row["first"] != "clinic_id" and row["name"] not in exceptions
    ]
    assert wrong == []


@pytest.mark.process
def test_no_file_is_too_long() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    lengths = {
        name: len((ROOT / name).read_text().splitlines())
        for name in tracked
        if (ROOT / name).exists()
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}
