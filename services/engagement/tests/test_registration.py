"""A clinic's registration and its first visit, committed side by side by two consumers."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from engagement.consumers import HANDLERS
from revisit_chassis.db import Database
from revisit_events import testing
from revisit_events.catalog import CATALOG
from revisit_events.envelope import AnyEvent
from revisit_events.handlers import handle
from standalone.cluster import Cluster, ServiceDatabase

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
LIVE = NOW - timedelta(days=1)
ORDER = [contract for contract in CATALOG.values() if contract in HANDLERS]
LONG_ENOUGH_SECONDS = 0.3


@pytest.fixture(scope="module")
def service_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("engagement")


@pytest.fixture
async def database(service_database: ServiceDatabase) -> AsyncIterator[Database]:
    database = Database(service_database.database_url)
    yield database
    await database.close()


def registration(clinic_id: uuid.UUID) -> AnyEvent:
    return testing.clinic_registered(clinic_id=clinic_id, time=LIVE, live_from=LIVE)


def first_day(clinic_id: uuid.UUID) -> list[AnyEvent]:
    return [
        testing.visit_completed(clinic_id=clinic_id, time=NOW, completed_at=NOW),
        testing.appointment_booked(
            clinic_id=clinic_id, time=NOW, booked_at=NOW, starts_at=NOW + timedelta(days=9)
        ),
    ]


async def consume(
    database: Database, events: Sequence[AnyEvent], written: asyncio.Event, commit: asyncio.Event
) -> None:
    """One consumer's batch: applied, held open until it may commit."""
    async with database.transaction({event.clinic_id for event in events}) as connection:
        await handle(connection, HANDLERS, ORDER, events, NOW)
        written.set()
        await commit.wait()


@pytest.mark.parametrize("is_registration_first", [True, False])
async def test_whichever_comes_first_the_messages_are_planned(
    database: Database, *, is_registration_first: bool
) -> None:
    clinic_id = uuid.uuid4()
    first: Sequence[AnyEvent] = [registration(clinic_id)]
    second: Sequence[AnyEvent] = first_day(clinic_id)
    if not is_registration_first:
        first, second = second, first
    first_written, second_written, commit = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(consume(database, first, first_written, commit))
        await first_written.wait()
        group.create_task(consume(database, second, second_written, commit))
        await asyncio.sleep(LONG_ENOUGH_SECONDS)
        # It can neither know what the other did nor go on without it: it waits.
        assert not second_written.is_set()
        commit.set()
    async with database.transaction([clinic_id]) as connection:
        rows = await connection.exec_driver_sql("SELECT journey FROM message ORDER BY journey")
        assert list(rows.scalars()) == ["follow-up", "reminder"]


async def test_visits_of_an_unknown_clinic_do_not_wait_for_each_other(database: Database) -> None:
    clinic_id = uuid.uuid4()
    commit, written = asyncio.Event(), [asyncio.Event(), asyncio.Event()]
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for one in written:
            group.create_task(consume(database, first_day(clinic_id), one, commit))
        for one in written:
            await one.wait()
        commit.set()


async def test_zone_that_nobody_knows_counts_as_utc(database: Database) -> None:
    """One clinic's misspelt zone must not stop the repair and the sender of all the others."""
    clinic_id = uuid.uuid4()
    misspelt = testing.clinic_registered(clinic_id=clinic_id, time=LIVE, time_zone="Europe/Moskva")
    async with database.transaction([clinic_id]) as connection:
        await handle(connection, HANDLERS, ORDER, [misspelt], NOW)
        zone = await connection.exec_driver_sql("SELECT time_zone FROM clinic")
        assert zone.scalar_one() == "UTC"
