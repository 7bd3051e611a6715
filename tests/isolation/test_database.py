"""Row-level security holds without the services' help: the tenant predicate is left out on purpose."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
from tests.apps import SERVICES

from standalone.cluster import Cluster, ServiceDatabase

CLINIC_A, CLINIC_B = uuid.UUID(int=0xA), uuid.UUID(int=0xB)
SAMPLES = {
    "uuid": f"'{uuid.UUID(int=7)}'",
    "text": "'text'",
    "character varying": "'text'",
    "integer": "1",
    "smallint": "1",
    "bigint": "1",
    "numeric": "1",
    "double precision": "0.5",
    "real": "0.5",
    "boolean": "true",
    "timestamp with time zone": "now()",
    "date": "current_date",
    "time without time zone": "'10:00'",
    "json": "'{}'",
    "jsonb": "'{}'",
    "bytea": "'\\x00'",
    "ARRAY": "'{}'",
}
TECHNICAL = {
    "alembic_version",
    "broker_state",
    "relay_position",
    "outbox_refill",
    "feed_mark",
    "consumer_attempt",
}
"""Tables of no clinic: nothing of a clinic or a patient is in them."""
FOR_ALL = {"revoked_token"}
"""Every clinic's process needs the whole denylist; it holds ids of tokens and nothing else."""
_DELIVERY = {
    "outbox",
    "outbox_unsent",
    "outbox_unsendable",
    "dead_letter",
    "idempotency_key",
    "revoked_token",
}
WORKER_SEES = {
    "booking": _DELIVERY | {"appointment", "clinic"},
    "engagement": _DELIVERY | {"message", "task", "two_z"},
    "feedback": _DELIVERY,
    "scoring": _DELIVERY | {"rescore", "score", "rhythm_due"},
}
"""Where relays and schedulers look for work of all clinics; elsewhere they name a clinic first."""


@dataclass(frozen=True, slots=True)
class Made:
    """A service's database and the statement that fills each table."""

    service: str
    database: ServiceDatabase
    superuser_url: str
    inserts: dict[str, str]


@dataclass(slots=True)
class Tables:
    """A service's database with a row of clinic A in every table."""

    service: str
    database: ServiceDatabase
    superuser: Any
    names: list[str]
    inserts: dict[str, str]


@pytest.fixture(scope="module", params=SERVICES)
def made(request: pytest.FixtureRequest, postgres: Cluster) -> Made:
    """A database for the module; the tests roll back what they do."""
    service = request.param
    database = postgres.create(service)
    name = database.database_url.rsplit("/", 1)[1]
    server = postgres.server
    url = server.url(name, "postgres", server.superuser_password)
    with ThreadPoolExecutor(max_workers=1) as thread:
        inserts = thread.submit(lambda: asyncio.run(_fill(url))).result()
    return Made(service, database, url, inserts)


@pytest.fixture
async def tables(made: Made) -> AsyncIterator[Tables]:
    connection = await asyncpg.connect(made.superuser_url)
    yield Tables(made.service, made.database, connection, list(made.inserts), made.inserts)
    await connection.close()


async def _fill(url: str) -> dict[str, str]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY 1"
    )
    names = [row["relname"] for row in rows if row["relname"] not in TECHNICAL]
    inserts = {table: await _insert(connection, table) for table in names}
    for table in names:
        await connection.execute(inserts[table].format(clinic=CLINIC_A))
    await connection.close()
    return inserts


async def _insert(connection: Any, table: str) -> str:
    """Gives a statement that fills a table; what it may not hold is none of this test's business."""
    for row in await connection.fetch(
        "SELECT conname FROM pg_constraint WHERE conrelid = $1::regclass AND contype IN ('c', 'f')",
        table,
    ):
        await connection.execute(
            f'ALTER TABLE "{table}" DROP CONSTRAINT "{row["conname"]}" CASCADE'
        )
    columns = await connection.fetch(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = $1 "
        "AND is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO' "
        "AND is_generated = 'NEVER'",
        table,
    )
    values = {row["column_name"]: SAMPLES[row["data_type"]] for row in columns}
    values["clinic_id"] = "'{clinic}'"
    names, given = ", ".join(f'"{name}"' for name in values), ", ".join(values.values())
    # Braces of samples survive the format of the clinic.
    given = given.replace("'{}'", "'{{}}'")
    return f'INSERT INTO "{table}" ({names}) VALUES ({given})'


async def test_every_table_of_a_clinic_is_protected(tables: Tables) -> None:
    for table in tables.names:
        row = await tables.superuser.fetchrow(
            "SELECT relrowsecurity, relforcerowsecurity, relowner::regrole::text AS owner "
            "FROM pg_class WHERE oid = $1::regclass",
            table,
        )
        assert row is not None
        assert row["relrowsecurity"], f"{table} has no row-level security"
        assert row["relforcerowsecurity"], f"{table} lets its owner through"
        users = {tables.database.roles.app, tables.database.roles.worker}
        assert row["owner"] not in users, f"{table} belongs to {row['owner']}"


async def test_users_own_nothing_and_bypass_nothing(tables: Tables) -> None:
    for user in (tables.database.roles.app, tables.database.roles.worker):
        row = await tables.superuser.fetchrow(
            "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles "
            "WHERE rolname = $1",
            user,
        )
        assert row is not None
        assert not any(row.values()), f"{user}: {dict(row)}"
        owned = await tables.superuser.fetchval(
            "SELECT (SELECT count(*) FROM pg_class WHERE relowner = $1::regrole) + "
            "(SELECT count(*) FROM pg_proc WHERE proowner = $1::regrole)",
            user,
        )
        assert owned == 0
        memberships = "SELECT count(*) FROM pg_auth_members WHERE member = $1::regrole"
        assert await tables.superuser.fetchval(memberships, user) == 0
        assert not await tables.superuser.fetchval(
            "SELECT has_schema_privilege($1, 'public', 'CREATE')", user
        )


async def test_a_forgotten_predicate_shows_and_changes_nothing(tables: Tables) -> None:
    user = await asyncpg.connect(tables.database.database_url)
    try:
        for table in tables.names:
            assert await _as_clinic(user, CLINIC_A, f'SELECT count(*) FROM "{table}"') == 1, table
            if table not in FOR_ALL:
                counted = f'SELECT count(*) FROM "{table}"'
                assert await _as_clinic(user, CLINIC_B, counted) == 0, table
            for change in (
                f'UPDATE "{table}" SET clinic_id = clinic_id',
                f'DELETE FROM "{table}"',
            ):
                statement = f"WITH done AS ({change} RETURNING 1) SELECT count(*) FROM done"
                try:
                    changed = await _as_clinic(user, CLINIC_B, statement)
                except asyncpg.InsufficientPrivilegeError:
                    continue
                assert changed == 0, f"{table}: {statement}"
    finally:
        await user.close()
    for table in tables.names:
        assert await tables.superuser.fetchval(f'SELECT count(*) FROM "{table}"') == 1, table


async def test_a_row_of_another_clinic_is_refused(tables: Tables) -> None:
    user = await asyncpg.connect(tables.database.database_url)
    try:
        for table in tables.names:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await _as_clinic(user, CLINIC_B, tables.inserts[table].format(clinic=CLINIC_A))
    finally:
        await user.close()


async def test_without_a_clinic_nothing_is_seen(tables: Tables) -> None:
    user = await asyncpg.connect(
        tables.database.database_url, server_settings={"app.clinics": "{}"}
    )
    try:
        for table in set(tables.names) - FOR_ALL:
            assert await user.fetchval(f'SELECT count(*) FROM "{table}"') == 0, table
    finally:
        await user.close()


async def test_partitions_cannot_be_reached_by_themselves(tables: Tables) -> None:
    for user in (tables.database.roles.app, tables.database.roles.worker):
        open_ones = await tables.superuser.fetch(
            "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' "
            "AND has_table_privilege($1, oid, 'SELECT, INSERT, UPDATE, DELETE')",
            user,
        )
        assert [row["relname"] for row in open_ones] == []


async def test_the_worker_sees_all_clinics_only_where_its_loops_look(tables: Tables) -> None:
    worker = await asyncpg.connect(
        tables.database.worker_database_url, server_settings={"app.clinics": "{}"}
    )
    try:
        seen = set()
        for table in tables.names:
            try:
                if await worker.fetchval(f'SELECT count(*) FROM "{table}"'):
                    seen.add(table)
            except asyncpg.InsufficientPrivilegeError:
                continue
    finally:
        await worker.close()
    assert seen <= WORKER_SEES[tables.service]


async def _as_clinic(user: Any, clinic_id: uuid.UUID, statement: str) -> Any:
    """Runs a statement inside a transaction of a clinic, which is rolled back."""
    transaction = user.transaction()
    await transaction.start()
    try:
        await user.execute("SELECT set_config('app.clinics', $1, true)", f"{{{clinic_id}}}")
        return await user.fetchval(statement)
    finally:
        await transaction.rollback()
