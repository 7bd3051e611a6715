"""The database as the migrations make it."""

import sqlalchemy as sa

from revisit_chassis.db import Database
from revisit_chassis.migrate import current_revision, head_revision, upgrade
from standalone.cluster import ServiceDatabase


def test_database_is_at_the_newest_revision_and_stays_there(
    service_database: ServiceDatabase,
) -> None:
    assert current_revision("feedback", service_database.owner_database_url) == "0001"
    assert head_revision("feedback") == "0001"
    upgrade("feedback", service_database.owner_database_url, service_database.roles)


async def test_every_table_with_a_clinic_is_under_row_level_security(
    database: Database,
) -> None:
    async with database.connect() as connection:
        rows = await connection.execute(
            sa.text("""
                SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity AS is_protected
                FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
                WHERE a.attname = 'clinic_id' AND c.relkind IN ('r', 'p')
                    AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace
            """)
        )
        tables = {row.relname: row.is_protected for row in rows}
    assert {"survey_link", "survey_response", "complaint", "review", "visit"} <= set(tables)
    assert [name for name, is_protected in tables.items() if not is_protected] == []


async def test_without_a_clinic_nothing_is_seen(database: Database) -> None:
    async with database.connect() as connection:
        for table in ("survey_link", "survey_response", "complaint", "review", "visit", "clinic"):
            assert await connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) == 0
