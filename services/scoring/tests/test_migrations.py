"""The migrated database is what `tables` describes."""

from tests.migrated import differences

from revisit_chassis.db import Database
from scoring.tables import FACTS, METADATA
from standalone.cluster import ServiceDatabase


async def test_migrations_make_the_tables_that_are_described(
    scoring_database: ServiceDatabase,
) -> None:
    assert await differences(scoring_database.owner_database_url, METADATA) == []


async def test_every_table_is_under_row_level_security(database: Database) -> None:
    async with database.connect() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"
        )
        protected = {row.relname for row in rows}
    assert set(METADATA.tables) <= protected
    assert set(FACTS) <= set(METADATA.tables)
