"""Locks, schedules, pauses and clocks."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis import clock as clocks
from revisit_chassis.backoff import LONGEST_SECONDS, pause_seconds
from revisit_chassis.clock import Clock as AnyClock
from revisit_chassis.clock import FollowedClock, SimulatedClock, SystemClock
from revisit_chassis.db import Database
from revisit_chassis.locks import advisory_lock, is_lost, lead, lock_number
from revisit_chassis.schedule import FAULTS_UNTIL_RED, Activity, run_schedule, schedule_check
from standalone.cluster import Cluster, ServiceDatabase

NOW = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def name() -> str:
    return f"lock-{uuid.uuid4()}"


async def holders(database: Database, name: str, *, granted: bool) -> list[int]:
    number = lock_number(name) & 0xFFFFFFFFFFFFFFFF
    async with database.single() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted = $1 "
            "AND classid = $2::bigint AND objid = $3::bigint",
            (granted, number >> 32, number & 0xFFFFFFFF),
        )
        return list(rows.scalars())


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110  (the database gives no event)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def leading(
    database: Database, name: str, log: list[str], who: str
) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()

    async def work(_: AsyncConnection) -> None:
        log.append(who)
        await stop.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(lead(database, name, work, stop))
        yield stop
        stop.set()


async def test_standby_takes_over_when_the_leader_ends(database: Database, name: str) -> None:
    log: list[str] = []
    async with leading(database, name, log, "first") as first:
        await until(lambda: holders(database, name, granted=True))
        async with leading(database, name, log, "second"):
            await until(lambda: holders(database, name, granted=False))
            assert log == ["first"]
            first.set()

            async def has_taken_over() -> bool:
                return log == ["first", "second"]

            await until(has_taken_over)


async def test_standby_that_is_told_to_stop_leaves_no_lock_behind(
    database: Database, name: str
) -> None:
    log: list[str] = []
    async with leading(database, name, log, "first"):
        await until(lambda: holders(database, name, granted=True))
        async with leading(database, name, log, "second"):
            await until(lambda: holders(database, name, granted=False))
        assert log == ["first"]
        assert await holders(database, name, granted=False) == []
    assert await holders(database, name, granted=True) == []


async def test_lock_takes_nobodys_place_in_the_pool(
    service_database: ServiceDatabase, name: str
) -> None:
    narrow = Database(service_database.database_url, pool_size=1)
    async with advisory_lock(narrow, name), narrow.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT 1")).scalar() == 1
    await narrow.close()


async def end_session(postgres: Cluster, pid: int) -> None:
    superuser = Database(postgres.superuser_url)
    async with superuser.single() as connection:
        await connection.exec_driver_sql("SELECT pg_terminate_backend($1)", (pid,))
    await superuser.close()


async def test_holder_notices_that_its_connection_is_gone(
    database: Database, name: str, postgres: Cluster
) -> None:
    async with advisory_lock(database, name) as connection:
        assert not await is_lost(connection)
        (pid,) = await holders(database, name, granted=True)
        await end_session(postgres, pid)
        await until(lambda: is_lost(connection))


class Work:
    """Due work that fails as often as it is told to."""

    def __init__(self, name: str, failures: int = 0) -> None:
        self.name = name
        self.failures = failures
        self.runs = 0

    async def run_due(self, clock: AnyClock) -> int:  # noqa: ARG002
        self.runs += 1
        if self.failures > 0:
            self.failures -= 1
            raise ValueError
        return 0

    async def next_due_at(self) -> datetime | None:
        return None


@asynccontextmanager
async def scheduled(database: Database, work: Work, activity: Activity) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            run_schedule(
                [work], SystemClock(), database, poll_seconds=0.01, stop=stop, activity=activity
            )
        )
        yield
        stop.set()


async def test_schedule_that_fails_again_and_again_is_red_and_recovers(
    database: Database, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("revisit_chassis.backoff.FIRST_SECONDS", 0.0001)
    activity, work = Activity(), Work(name, failures=FAULTS_UNTIL_RED + 2)
    check = schedule_check(activity)
    async with scheduled(database, work, activity):

        async def is_red() -> bool:
            return await check() is not None

        async def is_green_again() -> bool:
            return work.failures == 0 and await check() is None

        await until(is_red)
        await until(is_green_again)
    assert activity.faults == {}


async def test_leader_whose_lock_is_gone_stops_and_leads_again(
    database: Database, name: str, postgres: Cluster
) -> None:
    activity, work = Activity(), Work(name)
    async with scheduled(database, work, activity):
        await until(lambda: holders(database, f"schedule.{name}", granted=True))
        (pid,) = await holders(database, f"schedule.{name}", granted=True)
        await end_session(postgres, pid)

        async def leads_anew() -> bool:
            return await holders(database, f"schedule.{name}", granted=True) not in ([pid], [])

        await until(leads_anew)
        runs = work.runs

        async def works() -> bool:
            return work.runs > runs

        await until(works)


def test_pause_grows_and_is_capped_for_ever() -> None:
    assert pause_seconds(1) <= 0.2
    assert all(0 < pause_seconds(n) <= LONGEST_SECONDS for n in (1, 10, 1_100, 10**9))


def test_simulated_clock_judges_work_at_its_due_time_within_the_step() -> None:
    clock = SimulatedClock(NOW)
    clock.set(NOW + timedelta(days=7))
    assert clock.at(NOW + timedelta(days=1)) == NOW + timedelta(days=1)
    assert clock.at(NOW - timedelta(days=1)) == NOW
    assert clock.at(NOW + timedelta(days=9)) == clock.now()
    with pytest.raises(ValueError, match="backwards"):
        clock.set(NOW)


async def test_jump_of_a_simulated_clock_wakes_who_waits() -> None:
    clock = SimulatedClock(NOW)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(clock.changed(60))
        await asyncio.sleep(0)
        clock.set(NOW + timedelta(hours=1))


@pytest.mark.parametrize(
    "bad",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={}),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"now": "2026-01-15T12:00:00"}),
        httpx.Response(200, json={"now": None}),
        httpx.Response(502),
    ],
)
async def test_followed_clock_survives_a_bad_answer(
    bad: httpx.Response, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "FOLLOW_SECONDS", 0.001)
    later = NOW + timedelta(days=1)
    answers = [bad, httpx.Response(200, json={"now": later.isoformat()})]

    class Client(httpx.AsyncClient):
        async def get(self, *_: object, **__: object) -> httpx.Response:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            answer.request = httpx.Request("GET", "http://clock")
            return answer

    monkeypatch.setattr(httpx, "AsyncClient", Client)
    clock = FollowedClock("http://clock", NOW)
    following = asyncio.create_task(clock.run())

    async def has_followed() -> bool:
        return clock.now() == later

    await until(has_followed)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
