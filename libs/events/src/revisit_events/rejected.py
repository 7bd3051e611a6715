"""Refused events: kept encrypted, listed without their body, and tried again on request.

The id of a refused event is made of its body, so a client that sends the same bad event in a loop
fills one row. What did not come again for 30 days is forgotten by the worker's upkeep.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database, fetch, fetch_value
from revisit_chassis.reencrypt import EncryptedColumn
from revisit_events.intake_tables import rejected_event
from revisit_events.reception import Refused, fitting_text

RETENTION = timedelta(days=30)
_BODY_NAMESPACE = UUID("5b0c1d2e-8f60-4a53-9d3f-6a2f0e7c4b11")

_KEEP = """
INSERT INTO rejected_event AS kept (clinic_id, rejected_event_id, received_at, times, event_id,
                                    source, event_type, problem, body)
SELECT clinic_id, rejected_event_id, $3, 1, event_id, source, event_type, problem::jsonb, body
FROM unnest($1::uuid[], $2::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[])
  AS given (clinic_id, rejected_event_id, event_id, source, event_type, problem, body)
ORDER BY clinic_id, rejected_event_id
ON CONFLICT (clinic_id, rejected_event_id) DO UPDATE
SET received_at = excluded.received_at, times = kept.times + 1,
    problem = excluded.problem, body = excluded.body, replayed_at = NULL
"""
_FORGET = "DELETE FROM rejected_event WHERE received_at < now() - $1::interval"
_LIST = """
SELECT rejected_event_id, received_at, times, event_id, source, event_type, problem, replayed_at
FROM rejected_event
WHERE clinic_id = $1 AND ($2::timestamptz IS NULL OR (received_at, rejected_event_id) < ($2, $3))
ORDER BY received_at DESC, rejected_event_id DESC LIMIT $4
"""
_BODY = "SELECT body FROM rejected_event WHERE clinic_id = $1 AND rejected_event_id = $2"
_REPLAYED = """
UPDATE rejected_event SET replayed_at = $3 WHERE clinic_id = $1 AND rejected_event_id = $2
"""


@dataclass(frozen=True, slots=True)
class RejectedEvent:
    """A refused event without its body."""

    id: UUID
    received_at: datetime
    times: int
    event_id: str | None
    source: str | None
    event_type: str | None
    problem: dict[str, Any]
    replayed_at: datetime | None


async def keep(
    connection: AsyncConnection,
    refused: Sequence[tuple[UUID, Any, Refused]],
    keyring: Keyring,
) -> None:
    """Keeps refused events.

    Args:
        connection: Inside a transaction that sees the clinics.
        refused: Clinic, raw event and refusal of each.
        keyring: Encrypts the bodies.
    """
    rows: dict[tuple[UUID, UUID], tuple[Any, Refused, bytes]] = {}
    for clinic_id, raw, refusal in refused:
        body = _body_of(raw)
        rows[clinic_id, uuid5(_BODY_NAMESPACE, body)] = (raw, refusal, body.encode())
    now = datetime.now(UTC)
    await connection.exec_driver_sql(
        _KEEP,
        (
            [clinic_id for clinic_id, _ in rows],
            [row_id for _, row_id in rows],
            now,
            [refusal.id for _, refusal, _ in rows.values()],
            [fitting_text(raw, "source") for raw, _, _ in rows.values()],
            [fitting_text(raw, "type") for raw, _, _ in rows.values()],
            [json.dumps(refusal.refusal.as_json()) for _, refusal, _ in rows.values()],
            [
                keyring.encrypt(body, context_of(clinic_id, row_id))
                for (clinic_id, row_id), (_, _, body) in rows.items()
            ],
        ),
    )


def _body_of(raw: Any) -> str:
    try:
        return json.dumps(raw, sort_keys=True)
    except RecursionError:  # read and too deep to be written: at least whose it was is kept
        return json.dumps({name: fitting_text(raw, name) for name in ("id", "source", "type")})


async def forget_old(worker_database: Database) -> None:
    """Deletes what was refused longer ago than it is kept, of all clinics.

    Args:
        worker_database: Of any service; one without an intake has nothing of the kind.
    """
    async with worker_database.connect() as connection:
        if not await fetch_value(connection, "SELECT to_regclass('rejected_event') IS NOT NULL"):
            return
        clinics = await fetch(connection, "SELECT clinics_of_rejected_event()")
    if clinics:
        async with worker_database.transaction([row[0] for row in clinics]) as connection:
            await fetch(connection, _FORGET, RETENTION)


async def rejected_events(
    connection: AsyncConnection,
    clinic_id: UUID,
    *,
    before: tuple[datetime, UUID] | None,
    limit: int,
) -> list[RejectedEvent]:
    """Gives a clinic's refused events, the newest first.

    Args:
        connection: Inside a transaction that sees the clinic.
        clinic_id: The clinic.
        before: Time and id of the last one already seen.
        limit: How many at most.
    """
    received_at, row_id = before or (None, None)
    result = await connection.exec_driver_sql(_LIST, (clinic_id, received_at, row_id, limit))
    rows: Sequence[Any] = result.all()
    return [RejectedEvent(*row) for row in rows]


async def body_of(
    connection: AsyncConnection, clinic_id: UUID, row_id: UUID, keyring: Keyring
) -> Any:
    """Gives a refused event as it came; none if there is no such one.

    Args:
        connection: Inside a transaction that sees the clinic.
        clinic_id: The clinic.
        row_id: Id of the refused event.
        keyring: Decrypts the body.
    """
    rows = await connection.exec_driver_sql(_BODY, (clinic_id, row_id))
    body = rows.scalar_one_or_none()
    return (
        None if body is None else json.loads(keyring.decrypt(body, context_of(clinic_id, row_id)))
    )


async def mark_replayed(
    connection: AsyncConnection, clinic_id: UUID, row_id: UUID, now: datetime
) -> None:
    """Notes that a replay of a refused event was taken.

    Args:
        connection: Inside a transaction that sees the clinic.
        clinic_id: The clinic.
        row_id: Id of the refused event.
        now: When.
    """
    await connection.exec_driver_sql(_REPLAYED, (clinic_id, row_id, now))


def context_of(clinic_id: UUID, row_id: UUID) -> bytes:
    """Gives what the body of a refused event is bound to."""
    return f"rejected_event:{clinic_id}:{row_id}".encode()


REFUSED_BODIES = EncryptedColumn(rejected_event, "body", context_of)
"""What a rotation of the key ring has to bring under the active key."""
