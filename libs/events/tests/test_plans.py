"""A plan that was made while the tables were empty must serve them when they are full."""

import uuid

import asyncpg

from revisit_chassis.db import Database, fetch
from revisit_events import relay, testing
from revisit_events.outbox import publish
from standalone.cluster import Cluster, ServiceDatabase

PLANS_UNTIL_ONE_IS_KEPT = 10
_READ_WHOLE = "SELECT relname FROM pg_stat_xact_user_tables WHERE seq_scan > 0"


async def read(worker_database: Database) -> tuple[int, list[str]]:
    """Reads as a relay does; gives the number of messages, and the tables that were read in whole."""
    async with worker_database.connect() as connection:
        rows = await fetch(connection, relay._READ, 1, 0, relay.BATCH)
        return len(rows), [row.relname for row in await fetch(connection, _READ_WHOLE)]


async def test_relay_reads_no_whole_table_by_a_plan_of_an_empty_queue(postgres: Cluster) -> None:
    made = postgres.create("booking")
    database = Database(made.database_url)
    worker_database = Database(made.worker_database_url, pool_size=1)
    clinic_id = uuid.uuid4()
    try:
        await publish_visits(database, clinic_id, 1)
        async with worker_database.connect() as connection:
            await fetch(connection, "DELETE FROM outbox_unsent WHERE position > 0")
        await take_stock(postgres, made)
        for _ in range(PLANS_UNTIL_ONE_IS_KEPT):
            assert await read(worker_database) == (0, [])
        await publish_visits(database, clinic_id, 2 * relay.BATCH)
        assert await read(worker_database) == (relay.BATCH, [])
    finally:
        await database.close()
        await worker_database.close()


async def publish_visits(database: Database, clinic_id: uuid.UUID, visits: int) -> None:
    """Publishes as a service does."""
    async with database.transaction((clinic_id,)) as connection:
        await publish(
            connection,
            [
                testing.visit_completed(clinic_id=clinic_id, visit_id=uuid.uuid4())
                for _ in range(visits)
            ],
        )


async def take_stock(postgres: Cluster, made: ServiceDatabase) -> None:
    """Does what autovacuum does in a quiet moment: then the planner takes the queue for empty."""
    server = postgres.server
    name = made.database_url.rsplit("/", 1)[1]
    connection = await asyncpg.connect(server.url(name, "postgres", server.superuser_password))
    try:
        await connection.execute("VACUUM (ANALYZE) outbox_unsent")
    finally:
        await connection.close()
