"""Every encrypted column is named to a rotation of the key ring, and nothing but those."""

import asyncpg
import pytest
from tests.apps import SERVICES

from booking.rotation import ENCRYPTED as BOOKING
from engagement.rotation import ENCRYPTED as ENGAGEMENT
from feedback.rotation import ENCRYPTED as FEEDBACK
from revisit_chassis.db import Database
from revisit_chassis.reencrypt import EncryptedColumn, clinics_of
from standalone.cluster import Cluster

ENCRYPTED: dict[str, tuple[EncryptedColumn, ...]] = {
    "booking": BOOKING,
    "engagement": ENGAGEMENT,
    "feedback": FEEDBACK,
    "scoring": (),
}
DELIVERED = {"outbox.data", "dead_letter.key", "dead_letter.value"}
"""Messages as they are on Kafka. A contact block in them is told again by booking, and goes with them."""
IN_CLEAR = {"engagement": {"idempotency_key.answer"}, "scoring": {"idempotency_key.answer"}}
"""Their APIs have no key ring: they answer with ids and codes, and know nobody's contacts."""


@pytest.mark.parametrize("service", SERVICES)
async def test_every_column_of_bytes_is_a_digest_or_known_to_the_rotation(
    service: str, postgres: Cluster
) -> None:
    connection = await asyncpg.connect(postgres.create(service).owner_database_url)
    rows = await connection.fetch(
        """
        SELECT c.relname || '.' || a.attname AS name
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
          AND NOT c.relispartition AND a.atttypid = 'bytea'::regtype AND NOT a.attisdropped
        """
    )
    await connection.close()
    found = {row["name"] for row in rows if not row["name"].endswith("_digest")}
    registered = {column.name for column in ENCRYPTED[service]}
    assert registered == found - DELIVERED - IN_CLEAR.get(service, set())


@pytest.mark.parametrize("service", SERVICES)
async def test_worker_can_list_the_clinics_of_every_encrypted_table_and_the_app_cannot(
    service: str, postgres: Cluster
) -> None:
    created = postgres.create(service)
    worker, app = Database(created.worker_database_url), Database(created.database_url)
    for column in ENCRYPTED[service]:
        assert await clinics_of(worker, column.table.name) == []
        with pytest.raises(Exception, match="permission denied"):
            await clinics_of(app, column.table.name)
    await worker.close()
    await app.close()
