"""What a dead connection leaves behind: no session of the server, and no second surprise for the client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import COMMAND_TIMEOUT_SECONDS, Database, _driver
from standalone.cluster import Cluster
from standalone.postgres import free_port
from tests.chaos.proxy import Proxy, Weather

PATIENCE_SECONDS = 0.5


@pytest.mark.parametrize(
    ("setting", "value"),
    [("tcp_keepalives_idle", 10), ("tcp_keepalives_interval", 5), ("tcp_keepalives_count", 3)],
)
async def test_server_ends_a_session_whose_client_is_gone(
    postgres: Cluster, setting: str, value: int
) -> None:
    database = Database(postgres.prepare("keepalive").database_url)
    async with database.connect() as pooled, database.alone() as lone:
        for connection in (pooled, lone):
            found = await connection.exec_driver_sql(f"SHOW {setting}")
            assert int(found.scalar_one()) == value
    await database.close()


@pytest.fixture
async def proxy(postgres: Cluster) -> AsyncIterator[Proxy]:
    """Stands before the cluster."""
    proxy = Proxy(free_port(), urlsplit(postgres.superuser_url).port or 0)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def database(postgres: Cluster, proxy: Proxy) -> AsyncIterator[Database]:
    """Reached through the proxy."""
    direct = urlsplit(postgres.prepare("cut_off").database_url)
    host = direct.netloc.rpartition(":")[0]
    database = Database(direct._replace(netloc=f"{host}:{proxy.port}").geturl())
    yield database
    await database.close()


@pytest.mark.parametrize("open_", [Database.connect, Database.single])
async def test_what_one_dead_connection_taught_is_known_of_all(
    proxy: Proxy,
    database: Database,
    open_: Callable[[Database], AbstractAsyncContextManager[AsyncConnection]],
) -> None:
    async def ask(together: asyncio.Barrier) -> None:
        async with open_(database) as connection:
            await connection.exec_driver_sql("SELECT 1")
            await together.wait()

    everyone = asyncio.Barrier(5)
    await asyncio.gather(*(ask(everyone) for _ in range(5)))
    async with proxy.weather(Weather.HALF_OPEN):
        pass
    alone = asyncio.Barrier(1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await ask(alone)
    # Far shorter than the driver's own time-out.
    async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS / 2):
        for _ in range(5):
            await ask(alone)


async def test_session_on_a_dead_connection_ends_without_an_answer(
    proxy: Proxy, database: Database
) -> None:
    # To say goodbye the driver would wait for its own time-out.
    async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS / 2):
        async with database.alone() as connection:
            await connection.exec_driver_sql("SELECT 1")
            async with proxy.weather(Weather.HALF_OPEN):
                with pytest.raises(TimeoutError):
                    await _driver(connection).fetch("SELECT 1", timeout=PATIENCE_SECONDS)
