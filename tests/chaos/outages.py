"""F4, F5 and F6: the broker, the network and PostgreSQL fail, and come back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

from tests.chaos.proxy import Proxy, Weather
from tests.chaos.rig import SERVICES
from tests.chaos.scene import POSTS, Scene

PAUSE_SECONDS = 4
SPLIT_SECONDS = 2.5
HALF_OPEN_SECONDS = 7
"""Longer than a statement may take in these trials, so that clients must give up by themselves."""
REFUSAL_SECONDS = 1.5
_DEADLOCKS = """
CREATE FUNCTION chaos_deadlock() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF random() < 0.3 THEN RAISE EXCEPTION USING ERRCODE = '40P01'; END IF; RETURN NULL; END $$;
CREATE TRIGGER chaos_deadlock BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION chaos_deadlock()
"""


async def pause_broker(scene: Scene) -> None:
    """The broker stands still; events are taken all the same."""
    load = asyncio.create_task(scene.load.run(POSTS))
    await asyncio.sleep(0.3)
    with scene.platform.suspended(scene.platform.broker.pid):
        await asyncio.sleep(PAUSE_SECONDS)
    await load


async def kill_broker(scene: Scene) -> None:
    """kill -9 of a Kafka node under load; what it had acknowledged is on its disk."""
    load = asyncio.create_task(scene.load.run(POSTS * 2))
    await asyncio.sleep(0.5)
    await asyncio.to_thread(scene.platform.broker.kill)
    await asyncio.sleep(1)
    await asyncio.to_thread(scene.platform.broker.start)
    await load


async def lose_log(scene: Scene) -> None:
    """The broker comes back empty; the outboxes fill it again."""
    load = asyncio.create_task(scene.load.run(POSTS))
    await asyncio.sleep(0.5)
    await drop_log(scene)
    await load


async def drop_log(scene: Scene) -> None:
    """Replaces the broker by an empty one."""
    broker = scene.platform.broker
    await asyncio.to_thread(broker.stop)
    broker.lose_log()
    scene.trial.is_log_lost = True
    await asyncio.to_thread(broker.start)


async def _weathers(scene: Scene, proxy: Proxy, *weathers: Weather) -> None:
    load = asyncio.create_task(scene.load.run(POSTS * 2))
    for weather in weathers:
        async with proxy.weather(weather):
            await asyncio.sleep(SPLIT_SECONDS)
        await asyncio.sleep(0.3)
    await load


async def split_from_postgres(scene: Scene) -> None:
    """Bytes stand still, connections break, bytes crawl between the services and PostgreSQL."""
    proxy = scene.platform.postgres_proxy
    await _weathers(scene, proxy, Weather.HOLD, Weather.CUT, Weather.SLICE)


async def lose_answers_of_postgres(scene: Scene) -> None:
    """Commits happen and nobody learns of them."""
    await _weathers(scene, scene.platform.postgres_proxy, Weather.SWALLOW_REPLIES)


async def split_from_broker(scene: Scene) -> None:
    """Bytes stand still, connections break, bytes crawl between the services and the broker."""
    proxy = scene.platform.broker_proxy
    await _weathers(scene, proxy, Weather.HOLD, Weather.CUT, Weather.SLICE)


async def lose_answers_of_broker(scene: Scene) -> None:
    """The broker takes messages and its acknowledgements never arrive: they are sent again."""
    await _weathers(scene, scene.platform.broker_proxy, Weather.SWALLOW_REPLIES)


async def half_open(scene: Scene) -> None:
    """Every connection is dead and nobody is told; the clients' own time-outs find out."""
    load = asyncio.create_task(scene.load.run(POSTS))
    await asyncio.sleep(0.3)
    platform = scene.platform
    async with (
        platform.postgres_proxy.weather(Weather.HALF_OPEN),
        platform.broker_proxy.weather(Weather.HALF_OPEN),
    ):
        await asyncio.sleep(HALF_OPEN_SECONDS)
    await load


async def end_backends(scene: Scene) -> None:
    """PostgreSQL ends every connection, twice."""
    load = asyncio.create_task(scene.load.run(POSTS))
    async with _superuser(scene) as connection:
        for _ in range(2):
            await asyncio.sleep(0.5)
            await _end_backends(connection)
    await load


async def kill_backend(scene: Scene) -> None:
    """kill -9 of one backend: PostgreSQL throws everybody out and recovers from its log."""
    load = asyncio.create_task(scene.load.run(POSTS))
    connection = await asyncpg.connect(scene.platform.cluster.superuser_url)
    await asyncio.sleep(0.3)
    pid = await connection.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
        "AND application_name LIKE 'booking%' LIMIT 1"
    )
    os.kill(pid, signal.SIGKILL)
    await load
    connection.terminate()


async def crash_postgres(scene: Scene) -> None:
    """PostgreSQL stops at once, without a checkpoint, and comes back."""
    load = asyncio.create_task(scene.load.run(POSTS))
    await asyncio.sleep(0.3)
    server = scene.platform.cluster.server
    await asyncio.to_thread(server.stop, immediate=True)
    await asyncio.to_thread(server.start)
    scene.platform.postgres_proxy.target_port = server.port
    await load


async def postgres_refuses(scene: Scene) -> None:
    """PostgreSQL is read-only for a while, then has no connection left, then waits for no lock."""
    load = asyncio.create_task(scene.load.run(POSTS * 3))
    databases = [urlsplit(scene.platform.superuser_url(s)).path.lstrip("/") for s in SERVICES]
    async with _superuser(scene) as connection:
        for on, off in (
            ("SET default_transaction_read_only = on", "RESET default_transaction_read_only"),
            # Does not hold for a superuser.
            ("CONNECTION LIMIT 1", "CONNECTION LIMIT -1"),
            ("SET lock_timeout = '50ms'", "RESET lock_timeout"),
        ):
            for database in databases:
                await connection.execute(f'ALTER DATABASE "{database}" {on}')
            await _end_backends(connection)
            if "lock" in on:
                await asyncio.gather(*(_hold_locks(scene, service) for service in SERVICES))
            else:
                await asyncio.sleep(REFUSAL_SECONDS)
            for database in databases:
                await connection.execute(f'ALTER DATABASE "{database}" {off}')
            await _end_backends(connection)
    await load


async def deadlocks(scene: Scene) -> None:
    """A third of the inserts into inboxes and the intake end as the victim of a deadlock."""
    tables = {"booking": "intake", "engagement": "inbox", "feedback": "inbox", "scoring": "inbox"}
    for service, table in tables.items():
        await _run(scene, service, _DEADLOCKS.format(table=table))
    try:
        await scene.load.run(POSTS)
    finally:
        for service in tables:
            await _run(scene, service, "DROP FUNCTION chaos_deadlock CASCADE")


async def _hold_locks(scene: Scene, service: str) -> None:
    """Holds what every consumer and every intake needs, past their patience."""
    connection = await asyncpg.connect(scene.platform.superuser_url(service))
    async with connection.transaction():
        # Our own session waits as long as it takes.
        await connection.execute("SET LOCAL lock_timeout = 0")
        await connection.execute("LOCK TABLE inbox, outbox IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(REFUSAL_SECONDS)
    await connection.close()


async def _run(scene: Scene, service: str, statements: str) -> None:
    connection = await asyncpg.connect(scene.platform.superuser_url(service))
    await connection.execute(statements)
    await connection.close()


async def _end_backends(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )


@asynccontextmanager
async def _superuser(scene: Scene) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(scene.platform.cluster.superuser_url)
    try:
        yield connection
    finally:
        await connection.close()
