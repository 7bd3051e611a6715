"""Reads of messages for staff, for receipts, and the patient's timeline."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

_LIST = """
SELECT * FROM message
WHERE clinic_id = $1 AND ($2::uuid IS NULL OR patient_id = $2) AND ($3::text IS NULL OR journey = $3)
  AND ($4::text IS NULL OR state = $4)
  AND ($5::timestamptz IS NULL OR (due_at, message_id) > ($5, $6::uuid))
ORDER BY due_at, message_id LIMIT $7
"""
_TIMELINE = """
SELECT * FROM (
  SELECT completed_at AS at, 'visit' AS kind, visit_id AS id, outcome AS detail
  FROM visit WHERE clinic_id = $1 AND patient_id = $2
  UNION ALL
  SELECT starts_at, 'appointment', appointment_id, status
  FROM appointment WHERE clinic_id = $1 AND patient_id = $2 AND starts_at IS NOT NULL
  UNION ALL
  SELECT coalesce(decided_at, due_at), 'message', message_id, journey || ' ' || state
  FROM message WHERE clinic_id = $1 AND patient_id = $2
  UNION ALL
  SELECT opened_at, 'task', task_id, reason FROM task WHERE clinic_id = $1 AND patient_id = $2
) AS happened
WHERE $3::timestamptz IS NULL OR (at, id) < ($3, $4::uuid)
ORDER BY at DESC, id DESC LIMIT $5
"""


async def messages(
    connection: AsyncConnection,
    clinic_id: UUID,
    *,
    patient_id: UUID | None,
    journey: str | None,
    state: str | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> Sequence[Any]:
    """Gives messages in order of their due time."""
    at, message_id = after or (None, None)
    rows = await connection.exec_driver_sql(
        _LIST, (clinic_id, patient_id, journey, state, at, message_id, limit)
    )
    return rows.all()


async def message(connection: AsyncConnection, clinic_id: UUID, message_id: UUID) -> Any | None:
    """Gives one message."""
    rows = await connection.exec_driver_sql(
        "SELECT * FROM message WHERE clinic_id = $1 AND message_id = $2", (clinic_id, message_id)
    )
    return rows.first()


async def timeline(
    connection: AsyncConnection,
    clinic_id: UUID,
    patient_id: UUID,
    before: tuple[datetime, UUID] | None,
    limit: int,
) -> Sequence[Any]:
    """Gives what happened between clinic and patient, the newest first."""
    at, identity = before or (None, None)
    rows = await connection.exec_driver_sql(_TIMELINE, (clinic_id, patient_id, at, identity, limit))
    return rows.all()


async def note_delivery(
    connection: AsyncConnection, clinic_id: UUID, message_id: UUID, delivery: str, at: datetime
) -> Any | None:
    """Notes what the provider reported; gives the message when this changed it.

    Receipts come late, repeated and out of order: `delivered` stands over `failed`.
    """
    rows = await connection.exec_driver_sql(
        "UPDATE message SET delivery = $3, delivery_at = $4 "
        "WHERE clinic_id = $1 AND message_id = $2 AND state IN ('sending', 'sent', 'uncertain') "
        "AND (delivery IS NULL OR (delivery = 'failed' AND $3::text = 'delivered')) RETURNING *",
        (clinic_id, message_id, delivery, at),
    )
    return rows.first()
