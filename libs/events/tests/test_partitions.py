"""Partitions made and dropped by several workers at once, beside those who write and replay."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from revisit_chassis.db import Database
from revisit_events import inbox, testing
from revisit_events.inbox import Months, claim, first_kept_day
from revisit_events.outbox import publish
from standalone.cluster import Cluster


def today() -> date:
    """Asked when it is needed: a run may begin before midnight and come here after it."""
    return datetime.now(UTC).date()


@dataclass(slots=True)
class Side:
    database: Database
    worker: Database
    owner: "asyncpg.Connection[Any]"


@pytest.fixture
async def side(postgres: Cluster) -> AsyncIterator[Side]:
    made = postgres.create("scoring")
    owner = await asyncpg.connect(made.owner_database_url)
    side = Side(Database(made.database_url), Database(made.worker_database_url), owner)
    yield side
    await owner.close()
    await side.database.close()
    await side.worker.close()


async def run(database: Database, statement: str, *arguments: object) -> Any:
    async with database.connect() as connection:
        found = await connection.exec_driver_sql(statement, tuple(arguments))
        return found.scalar() if found.returns_rows else None


async def put(database: Database, count: int = 1) -> None:
    events = [testing.visit_completed(clinic_id=uuid.UUID(int=9)) for _ in range(count)]
    async with database.transaction((uuid.UUID(int=9),)) as connection:
        await publish(connection, events)


async def test_two_workers_at_midnight_make_and_drop_the_same_days(side: Side) -> None:
    async def write() -> None:
        for _ in range(30):
            await put(side.database, 5)

    async def upkeep(days: int) -> None:
        for ahead in range(8, days):
            await run(side.worker, "SELECT ensure_outbox_partitions($1::int)", ahead)
            await run(side.worker, "SELECT drop_outbox_partitions(14)")

    await asyncio.gather(upkeep(30), upkeep(30), write(), write())
    assert await run(side.worker, "SELECT count(*) FROM outbox") == 300
    assert await run(side.worker, "SELECT count(*) FROM outbox_unsent") == 300


async def test_day_that_came_without_its_partition_is_moved_into_one(side: Side) -> None:
    await side.owner.execute(f"DROP TABLE outbox_{today():%Y%m%d}")
    await put(side.database, 3)
    assert await side.owner.fetchval("SELECT count(*) FROM outbox_default") == 3
    await run(side.worker, "SELECT ensure_outbox_partitions(7)")
    assert await side.owner.fetchval("SELECT count(*) FROM outbox_default") == 0
    assert await side.owner.fetchval(f"SELECT count(*) FROM outbox_{today():%Y%m%d}") == 3
    await put(side.database, 1)
    assert await run(side.worker, "SELECT count(DISTINCT position) FROM outbox") == 4


async def test_day_that_a_replay_is_just_queuing_is_not_dropped(side: Side) -> None:
    await put(side.database, 3)
    await run(side.worker, "DELETE FROM outbox_unsent")
    async with side.worker.connect() as connection:
        await connection.exec_driver_sql(
            "INSERT INTO outbox_unsent SELECT clinic_id, recorded_on, position, 0 FROM outbox"
        )
        dropping = asyncio.ensure_future(run(side.worker, "SELECT drop_outbox_partitions(-1)"))
        await asyncio.sleep(0.3)
        assert not dropping.done()
    assert f"outbox_{today():%Y%m%d}" not in await dropping
    assert (
        await run(side.worker, "SELECT count(*) FROM outbox_unsent JOIN outbox USING (position)")
        == 3
    )


async def claim_visits(side: Side, *times: datetime) -> None:
    months = Months(side.database)
    await months.ensure(list(times))
    events = [testing.visit_completed(clinic_id=uuid.UUID(int=9), time=time) for time in times]
    async with side.database.transaction((uuid.UUID(int=9),)) as connection:
        await claim(connection, events)


async def test_history_imported_today_is_kept_however_long_ago_it_happened(side: Side) -> None:
    old = datetime(2019, 3, 5, tzinfo=UTC)
    await claim_visits(side, old)
    assert await run(side.worker, "SELECT drop_inbox_partitions($1::date)", today()) == []
    await side.owner.execute(
        "UPDATE inbox_201903 SET recorded_on = $1", today() - timedelta(days=50)
    )
    assert await run(side.worker, "SELECT drop_inbox_partitions($1::date)", today()) == [
        "inbox_201903"
    ]


async def test_month_that_several_need_at_once_is_made_once(side: Side) -> None:
    years = range(2001, 2009)
    for year in years:
        moments = [datetime(year, 3, 5, tzinfo=UTC)]
        await asyncio.gather(*(Months(side.database).ensure(moments) for _ in range(4)))
    made = await run(
        side.worker, "SELECT count(*) FROM pg_class WHERE relname ~ '^inbox_200[1-8]03$'"
    )
    assert made == len(years)


async def test_dropped_month_is_made_again_with_what_came_meanwhile(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = datetime(2019, 3, 5, tzinfo=UTC)
    months = Months(side.database)
    await months.ensure([old])
    await side.owner.execute("DROP TABLE inbox_201903")
    event = testing.visit_completed(clinic_id=uuid.UUID(int=9), time=old)
    async with side.database.transaction((uuid.UUID(int=9),)) as connection:
        await claim(connection, [event])
    assert await side.owner.fetchval("SELECT count(*) FROM inbox_default") == 1
    monkeypatch.setattr(inbox, "KNOWN_SECONDS", -1.0)
    await months.ensure([old])
    assert await side.owner.fetchval("SELECT count(*) FROM inbox_201903") == 1
    async with side.database.transaction((uuid.UUID(int=9),)) as connection:
        assert await claim(connection, [event]) == []


async def test_rows_outside_the_century_go_after_their_time_as_well(side: Side) -> None:
    await claim_visits(side, datetime(1955, 1, 1, tzinfo=UTC))
    await run(side.worker, "SELECT drop_inbox_partitions($1::date)", today())
    assert await side.owner.fetchval("SELECT count(*) FROM inbox_default") == 1
    await side.owner.execute("UPDATE inbox_default SET recorded_on = '2020-01-01'")
    await run(side.worker, "SELECT drop_inbox_partitions($1::date)", today())
    assert await side.owner.fetchval("SELECT count(*) FROM inbox_default") == 0


def test_event_log_is_kept_for_ever_unless_told_otherwise() -> None:
    now = datetime(2026, 3, 1, 1, tzinfo=UTC)
    assert first_kept_day(now, 0) is None
    assert first_kept_day(now, 44) == date(2026, 1, 16)
