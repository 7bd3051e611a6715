"""A plan that was made while the tables were empty must serve them when they are full."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.migrated import take_stock

from revisit_chassis.db import Database, fetch, fetch_value, set_clinics
from scoring import rescoring, store
from standalone.cluster import Cluster

PLANS_UNTIL_ONE_IS_KEPT = 10
ROWS = 4_000
TAKEN = 50
START, NOW, END = (datetime(2026, month, 1, tzinfo=UTC) for month in (5, 6, 7))
_ROWS_READ = """
SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int
FROM pg_stat_xact_user_tables WHERE relname = ANY ($1)
"""
_MARKS = """
INSERT INTO rescore (clinic_id, patient_id)
SELECT $1, gen_random_uuid() FROM generate_series(1, $2::int)
"""
_SURVEYS = """
INSERT INTO interaction_fact (clinic_id, kind, subject, code, about_id, at, precedence)
SELECT $1, 'link.issued', number::text, 'survey', lpad(number::text, 32, '0')::uuid, $3, ''
FROM generate_series(1, $2::int) AS number
"""
_ANSWERS = """
INSERT INTO answer_fact (clinic_id, answer_id, visit_id, kind, score, answered_at, precedence)
SELECT $1, gen_random_uuid(), lpad(number::text, 32, '0')::uuid, 'csat', 5, $3, ''
FROM generate_series(1, $2::int, 4) AS number
"""


@pytest.fixture
async def connection(postgres: Cluster) -> AsyncIterator[AsyncConnection]:
    """One session of a new installation's worker, after statistics of its empty tables were made."""
    made = postgres.create("scoring")
    await take_stock(postgres, made)
    database = Database(made.worker_database_url, pool_size=1)
    async with database.connect() as connection:
        yield connection
    await database.close()


async def rows_read(connection: AsyncConnection, *tables: str) -> int:
    found: int = await fetch_value(connection, _ROWS_READ, tables)
    return found


async def test_marks_are_taken_without_reading_those_that_wait(connection: AsyncConnection) -> None:
    clinic_id = uuid.uuid4()
    for _ in range(PLANS_UNTIL_ONE_IS_KEPT):
        assert await fetch(connection, rescoring._TAKE_CHANGED, TAKEN, NOW) == []
    await set_clinics(connection, [clinic_id])
    await fetch(connection, _MARKS, clinic_id, ROWS)
    before = await rows_read(connection, "rescore")
    assert len(await fetch(connection, rescoring._TAKE_CHANGED, TAKEN, NOW)) == TAKEN
    assert await rows_read(connection, "rescore") - before <= 2 * TAKEN


async def test_answers_are_read_once_and_not_for_each_survey(connection: AsyncConnection) -> None:
    clinic_id = uuid.uuid4()
    await set_clinics(connection, [clinic_id])
    asked = store._RESPONSES, clinic_id, START, END, None
    for _ in range(PLANS_UNTIL_ONE_IS_KEPT):
        (nobody,) = await fetch(connection, *asked)
        assert nobody.n == 0
    await fetch(connection, _SURVEYS, clinic_id, ROWS, NOW)
    await fetch(connection, _ANSWERS, clinic_id, ROWS, NOW)
    tables = "interaction_fact", "answer_fact"
    before = await rows_read(connection, *tables)
    (found,) = await fetch(connection, *asked)
    assert (found.n, found.hits) == (ROWS, ROWS // 4)
    assert await rows_read(connection, *tables) - before <= ROWS + ROWS // 4
