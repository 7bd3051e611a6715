"""What a migrated database has otherwise than its description in `tables`, and its first statistics."""

import asyncpg
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from revisit_chassis.db import driver_url
from standalone.cluster import Cluster, ServiceDatabase


async def differences(owner_database_url: str, metadata: sa.MetaData) -> list[object]:
    """Gives the differences; comments are for readers of the description and do not count."""
    engine = create_async_engine(driver_url(owner_database_url))

    def compare(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_object": lambda _, name, kind, *__: (
                    kind != "table" or name in metadata.tables
                ),
                "compare_type": True,
            },
        )
        found = compare_metadata(context, metadata)
        return [one for one in found if "comment" not in str(one)]

    async with engine.connect() as connection:
        found = await connection.run_sync(compare)
    await engine.dispose()
    return found


async def take_stock(postgres: Cluster, made: ServiceDatabase) -> None:
    """Does what autovacuum does in a quiet moment: then the planner takes empty tables for empty."""
    server = postgres.server
    name = made.database_url.rsplit("/", 1)[1]
    connection = await asyncpg.connect(server.url(name, "postgres", server.superuser_password))
    try:
        await connection.execute("VACUUM (ANALYZE)")
    finally:
        await connection.close()
