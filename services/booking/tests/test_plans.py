"""Statements of the hot path stay what they are when a clinic grows under a plan made while it was new."""

import uuid

from booking.store.named import keep_identifiers
from revisit_chassis.db import Database, fetch
from standalone.cluster import Cluster

PATIENTS = 3_000
# Past its fifth use a prepared statement is planned once for all.
USES_UNTIL_PLANNED = 8
_GROW = """
INSERT INTO patient (clinic_id, patient_id)
SELECT $1, gen_random_uuid() FROM generate_series(1, $2::int)
"""
NAMED = 5
_READ = """
SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) AS rows FROM pg_stat_xact_user_tables
WHERE relname = 'patient'
"""


async def test_identifiers_are_kept_without_reading_all_patients(postgres: Cluster) -> None:
    made = postgres.create("booking")
    database, clinic_id = Database(made.database_url, pool_size=1), uuid.uuid4()
    async with database.transaction((clinic_id,)) as connection:
        for number in range(USES_UNTIL_PLANNED):
            await keep_identifiers(
                connection, [(clinic_id, "patient", uuid.uuid4(), f"P-{number}")]
            )
        await fetch(connection, _GROW, clinic_id, PATIENTS)
        ids = [row.patient_id for row in await fetch(connection, "SELECT patient_id FROM patient")]
        (before,) = await fetch(connection, _READ)
        await keep_identifiers(
            connection, [(clinic_id, "patient", id_, str(id_)[:8]) for id_ in sorted(ids)[:NAMED]]
        )
        (after,) = await fetch(connection, _READ)
        (kept,) = await fetch(connection, "SELECT count(*) AS number FROM identifier")
    await database.close()
    # One look to insert and one to lock, not all of the clinic's patients by whatever index.
    assert after.rows - before.rows <= 2 * NAMED
    assert kept.number == NAMED + USES_UNTIL_PLANNED
