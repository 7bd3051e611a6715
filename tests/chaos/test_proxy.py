"""What a dead connection leaves behind: no session of the server, and no second surprise for the client."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis import db
from revisit_chassis.db import Database
from standalone.cluster import Cluster
from standalone.postgres import free_port
from tests.chaos.proxy import Proxy, Weather


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


@pytest.mark.parametrize("open_", [Database.connect, Database.single])
async def test_what_one_dead_connection_taught_is_known_of_all(
    postgres: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    open_: Callable[[Database], AbstractAsyncContextManager[AsyncConnection]],
) -> None:
    monkeypatch.setattr(db, "COMMAND_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(db, "CLEANING_TIMEOUT_SECONDS", 1)
    direct = urlsplit(postgres.prepare("cut_off").database_url)
    proxy = Proxy(free_port(), direct.port or 0)
    await proxy.start()
    host = direct.netloc.rpartition(":")[0]
    database = Database(direct._replace(netloc=f"{host}:{proxy.port}").geturl())

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
        await ask(alone)
    for _ in range(5):
        await ask(alone)
    await database.close()
    await proxy.stop()
