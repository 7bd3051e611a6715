"""The migrated database is what `tables` describes, the types of what is handed over included."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from tests.migrated import differences

from booking.tables import METADATA, REPORTS
from revisit_chassis.db import Database
from standalone.cluster import ServiceDatabase

_ATTRIBUTES = """
SELECT typname, attname, format_type(a.atttypid, a.atttypmod) AS kind
FROM pg_type AS t JOIN pg_attribute AS a ON a.attrelid = t.typrelid
WHERE typname = ANY ($1::text[]) AND attnum > 0 ORDER BY typname, attnum
"""


async def test_migrations_make_the_tables_that_are_described(
    service_database: ServiceDatabase,
) -> None:
    assert await differences(service_database.owner_database_url, METADATA) == []


async def test_types_of_reports_have_the_columns_of_their_tables(
    service_database: ServiceDatabase,
) -> None:
    described = {
        name: [(column.name, _kind(column)) for column in table.columns]
        for name, table in REPORTS.tables.items()
    }
    database = Database(service_database.database_url)
    async with database.connect() as connection:
        rows = await connection.exec_driver_sql(_ATTRIBUTES, (list(described),))
        found: dict[str, list[tuple[str, str]]] = {}
        for row in rows:
            found.setdefault(row.typname, []).append((row.attname, row.kind))
    await database.close()
    assert found == described


def _kind(column: "sa.Column[object]") -> str:
    compiled = column.type.compile(postgresql.dialect())  # type: ignore[no-untyped-call]  # SQLAlchemy's
    return compiled.split(" COLLATE")[0].lower()
