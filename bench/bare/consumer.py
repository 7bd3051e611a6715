"""Bare consumer: inbox, state and follow-up in one set-based statement a batch.

`python -m bench.bare.consumer URL BOOTSTRAP TOPIC GROUP`
"""

import sys
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer

from revisit_chassis.process import settle_memory

STATEMENT = """
WITH input AS (
  SELECT DISTINCT ON (clinic_id, event_id) *
  FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::timestamptz[])
    AS t(clinic_id, event_id, patient_id, completed_at)
), fresh AS (
  INSERT INTO inbox SELECT clinic_id, event_id FROM input ON CONFLICT DO NOTHING RETURNING clinic_id, event_id
), state AS (
  INSERT INTO patient_fact
  SELECT clinic_id, patient_id, count(*), max(completed_at)
  FROM input JOIN fresh USING (clinic_id, event_id) GROUP BY 1, 2 ORDER BY 1, 2
  ON CONFLICT (clinic_id, patient_id) DO UPDATE
    SET visits = patient_fact.visits + excluded.visits, last_at = greatest(patient_fact.last_at, excluded.last_at)
)
INSERT INTO follow_up
SELECT clinic_id, event_id, patient_id, completed_at + interval '1 day'
FROM input JOIN fresh USING (clinic_id, event_id) ON CONFLICT DO NOTHING
"""  # noqa: E501


class Visit(msgspec.Struct):
    """The data of an event, as far as the script needs it."""

    patient_id: UUID
    completed_at: datetime


VISIT = msgspec.json.Decoder(Visit)


async def main(url: str, bootstrap: str, topic: str, group: str) -> None:
    """Consumes until the process ends."""
    settle_memory()
    connection = await asyncpg.connect(url)
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=6000,
        heartbeat_interval_ms=2000,
        fetch_max_wait_ms=20,
        max_poll_records=500,
    )
    await consumer.start()
    while True:
        fetched = await consumer.getmany(timeout_ms=1000, max_records=500)
        records = [record for batch in fetched.values() for record in batch]
        if not records:
            continue
        visits = [VISIT.decode(record.value) for record in records]
        await connection.execute(
            STATEMENT,
            [UUID(record.key[:36].decode()) for record in records],
            [_event_id(record.headers) for record in records],
            [visit.patient_id for visit in visits],
            [visit.completed_at for visit in visits],
        )
        await consumer.commit()


def _event_id(headers: tuple[tuple[str, bytes], ...]) -> str:
    return next(value for name, value in headers if name in {"id", "ce_id"}).decode()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
