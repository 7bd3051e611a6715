"""What the proxy takes for granted of PostgreSQL: a session whose client is gone does not live on."""

import pytest

from revisit_chassis.db import Database
from standalone.cluster import Cluster


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
