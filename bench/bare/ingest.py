"""Bare ingest: Starlette, msgspec, asyncpg, one statement a request. `python -m bench.bare.ingest PORT URL`."""  # noqa: E501

import sys
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from revisit_chassis.process import settle_memory

STATEMENT = """
WITH input AS (
  SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::timestamptz[], $6::text[])
    AS t(clinic_id, event_id, visit_id, patient_id, completed_at, body)
), fresh AS (
  INSERT INTO event SELECT clinic_id, event_id FROM input ON CONFLICT DO NOTHING RETURNING clinic_id, event_id
), state AS (
  INSERT INTO visit SELECT clinic_id, visit_id, patient_id, completed_at, body::jsonb
  FROM input JOIN fresh USING (clinic_id, event_id) ON CONFLICT DO NOTHING
)
INSERT INTO outbox (key, event_id, body)
SELECT clinic_id || ':' || patient_id, event_id, body::jsonb FROM input JOIN fresh USING (clinic_id, event_id)
"""


class Visit(msgspec.Struct):
    """The data of an event, as far as the script needs it."""

    visit_id: UUID
    patient_id: UUID
    completed_at: datetime


class Event(msgspec.Struct):
    """The envelope."""

    id: str
    clinicid: UUID
    data: msgspec.Raw


BATCH = msgspec.json.Decoder(list[Event])
SINGLE = msgspec.json.Decoder(Event)
VISIT = msgspec.json.Decoder(Visit)


def main(port: int, url: str) -> None:
    """Serves until the process ends."""
    pool: dict[str, Any] = {}

    async def post(request: Request) -> Response:
        body = await request.body()
        events = BATCH.decode(body) if body.startswith(b"[") else [SINGLE.decode(body)]
        visits = [VISIT.decode(event.data) for event in events]
        async with pool["pool"].acquire() as connection:
            await connection.execute(
                STATEMENT,
                [event.clinicid for event in events],
                [event.id for event in events],
                [visit.visit_id for visit in visits],
                [visit.patient_id for visit in visits],
                [visit.completed_at for visit in visits],
                [bytes(event.data).decode() for event in events],
            )
        return Response(b'{"accepted":%d}' % len(events), 202)

    async def open_pool() -> None:
        pool["pool"] = await asyncpg.create_pool(url, min_size=8, max_size=8)

    class Lifespan:
        def __init__(self, _: Starlette) -> None: ...

        async def __aenter__(self) -> None:
            await open_pool()

        async def __aexit__(self, *_: object) -> None:
            await pool["pool"].close()

    settle_memory()
    app = Starlette(routes=[Route("/v1/events", post, methods=["POST"])], lifespan=Lifespan)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
