"""A transaction is whole or not at all, and its connection comes back clean or not at all."""

import asyncio
import random
import uuid
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.exc import DBAPIError

from revisit_chassis.db import (
    EPOCH_IN_SQL,
    Database,
    NotCommitted,
    fetch,
    is_infrastructure_fault,
    since_epoch,
)
from standalone.cluster import Cluster, ServiceDatabase

ADD = "INSERT INTO practitioner (clinic_id, practitioner_id) VALUES ($1, $2)"
SETTING = "SELECT current_setting('app.clinics')"


async def count(database: Database, clinic_id: uuid.UUID) -> int:
    async with database.transaction([clinic_id]) as connection:
        found = await connection.exec_driver_sql("SELECT count(*) FROM practitioner")
        return int(found.scalar_one())


async def add(database: Database, clinic_id: uuid.UUID) -> None:
    async with database.transaction([clinic_id]) as connection:
        await connection.exec_driver_sql(ADD, (clinic_id, uuid.uuid4()))


async def test_span_since_the_epoch_is_the_time_to_the_microsecond(database: Database) -> None:
    dice = random.Random(7)
    first, last = datetime(1900, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, 23, 59, 59, 999999, UTC)
    seconds = int((last - first).total_seconds())
    moscow = ZoneInfo("Europe/Moscow")
    times = [first, last]
    for _ in range(2_000):
        time = first + timedelta(
            seconds=dice.randrange(seconds), microseconds=dice.randrange(10**6)
        )
        times += [time, time.astimezone(moscow)]
    async with database.single() as connection:
        rows = await fetch(
            connection,
            f"SELECT {EPOCH_IN_SQL} + span AS time FROM unnest($1::interval[]) AS span",
            [since_epoch(time) for time in times],
        )
    assert [row.time for row in rows] == times


async def test_transaction_commits_at_its_end_and_not_before(
    database: Database, clinic_id: uuid.UUID
) -> None:
    async with database.transaction([clinic_id]) as connection:
        await connection.exec_driver_sql(ADD, (clinic_id, uuid.uuid4()))
        assert await count(database, clinic_id) == 0
    assert await count(database, clinic_id) == 1


async def test_error_undoes_all_of_it(database: Database, clinic_id: uuid.UUID) -> None:
    with pytest.raises(LookupError):
        async with database.transaction([clinic_id]) as connection:
            await connection.exec_driver_sql(ADD, (clinic_id, uuid.uuid4()))
            raise LookupError
    assert await count(database, clinic_id) == 0


async def test_caught_error_of_a_statement_is_no_success(
    database: Database, clinic_id: uuid.UUID
) -> None:
    with pytest.raises(NotCommitted):
        async with database.transaction([clinic_id]) as connection:
            await connection.exec_driver_sql(ADD, (clinic_id, uuid.uuid4()))
            with pytest.raises(DBAPIError):
                await connection.exec_driver_sql("SELECT 1 / 0")
    assert await count(database, clinic_id) == 0


async def test_clinics_do_not_outlive_their_transaction(service_database: ServiceDatabase) -> None:
    database = Database(service_database.database_url, pool_size=1)
    one, other = uuid.uuid4(), uuid.uuid4()
    await add(database, one)
    async with database.connect() as connection:
        assert (await connection.exec_driver_sql(SETTING)).scalar_one() == "{}"
    with pytest.raises(LookupError):
        async with database.transaction([one]) as connection:
            raise LookupError
    assert (await count(database, one), await count(database, other)) == (1, 0)
    async with database.single() as connection:
        assert (await connection.exec_driver_sql(SETTING)).scalar_one() == "{}"
    await database.close()


async def test_ended_connection_fails_its_transaction_and_is_not_pooled(
    postgres: Cluster, service_database: ServiceDatabase, clinic_id: uuid.UUID
) -> None:
    database = Database(service_database.database_url, pool_size=1)
    superuser = Database(postgres.superuser_url)
    with pytest.raises(Exception) as caught:  # noqa: PT011  (the driver's, whichever it is)
        async with database.transaction([clinic_id]) as connection:
            pid = (await connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
            async with superuser.connect() as other:
                await other.exec_driver_sql("SELECT pg_terminate_backend($1)", (pid,))
            await connection.exec_driver_sql(ADD, (clinic_id, uuid.uuid4()))
    assert is_infrastructure_fault(caught.value)
    await add(database, clinic_id)
    assert await count(database, clinic_id) == 1
    await superuser.close()
    await database.close()


async def test_cancelled_transaction_leaves_a_usable_connection(
    service_database: ServiceDatabase, clinic_id: uuid.UUID
) -> None:
    database = Database(service_database.database_url, pool_size=1)

    async def linger() -> None:
        async with database.transaction([clinic_id]) as connection:
            await connection.exec_driver_sql(ADD, (clinic_id, uuid.uuid4()))
            await connection.exec_driver_sql("SELECT pg_sleep(60)")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await linger()
    assert await count(database, clinic_id) == 0
    await database.close()
