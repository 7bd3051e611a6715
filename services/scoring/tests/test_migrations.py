"""The migrated database is what `tables` describes."""

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from revisit_chassis.db import Database
from revisit_chassis.db import driver_url as asyncpg_url
from scoring.tables import FACTS, METADATA
from standalone.cluster import ServiceDatabase


async def test_migrations_make_the_tables_that_are_described(
    scoring_database: ServiceDatabase,
) -> None:
    engine = create_async_engine(asyncpg_url(scoring_database.owner_database_url))

    def differences(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_object": lambda _, name, kind, *__: (
                    kind != "table" or name in METADATA.tables
                ),
                "compare_type": True,
            },
        )
        found = compare_metadata(context, METADATA)
        # Comments are for readers of the description.
        return [one for one in found if "comment" not in str(one)]

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_every_table_is_under_row_level_security(database: Database) -> None:
    async with database.connect() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"
        )
        protected = {row.relname for row in rows}
    assert set(METADATA.tables) <= protected
    assert set(FACTS) <= set(METADATA.tables)
