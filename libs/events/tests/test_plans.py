"""A plan that was made while the tables were all but empty must serve them when they are full."""

import uuid

from tests.migrated import take_stock

from revisit_chassis.db import Database, fetch, fetch_value
from revisit_events import relay, testing
from revisit_events.outbox import publish
from standalone.cluster import Cluster

PLANS_UNTIL_ONE_IS_KEPT = 10
# Of all that the session has not handed over to the statistics yet: differences count.
_ROWS_READ = """
SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::int
FROM pg_stat_xact_user_tables WHERE relname LIKE 'outbox%'
"""


async def read(worker_database: Database) -> tuple[int, int]:
    """Reads as a relay does; gives the number of messages, and of rows that were read for them."""
    async with worker_database.connect() as connection:
        before = await fetch_value(connection, _ROWS_READ)
        rows = await fetch(connection, relay._READ, 1, 0, relay.BATCH)
        return len(rows), await fetch_value(connection, _ROWS_READ) - before


async def test_relay_reads_no_more_than_it_sends_by_a_plan_of_an_empty_queue(
    postgres: Cluster,
) -> None:
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
            assert (await read(worker_database))[0] == 0
        await publish_visits(database, clinic_id, 2 * relay.BATCH)
        messages, rows = await read(worker_database)
        assert messages == relay.BATCH
        # Each place in the queue and each message once.
        assert rows <= 2 * relay.BATCH + 10
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
