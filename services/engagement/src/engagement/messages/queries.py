"""Reads of messages for staff, for receipts, and the patient's timeline."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_events.contracts.fields import LegalClass

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


class SentMessage(NamedTuple):
    """A message that a receipt is about."""

    clinic_id: UUID
    message_id: UUID
    patient_id: UUID
    journey: str
    step: str
    legal_class: LegalClass
    subject_id: UUID
    state: str
    calls: int
    channel: str | None
    delivery: str | None
    decided_at: datetime | None
    starts_at: datetime | None
    """Of the appointment that it is about."""


async def clinic_of(connection: AsyncConnection, message_id: UUID) -> UUID | None:
    """The clinic of a message for which a provider was called, before any clinic is known."""
    result = await connection.exec_driver_sql("SELECT clinic_of_message($1)", (message_id,))
    found: UUID | None = result.scalar_one()
    return found


async def lock_sent(
    connection: AsyncConnection, clinic_id: UUID, message_id: UUID
) -> SentMessage | None:
    """A message that nobody else can change until this transaction ends."""
    result = await connection.exec_driver_sql(
        """
        SELECT m.clinic_id, m.message_id, m.patient_id, m.journey, m.step, m.legal_class, m.subject_id,
            m.state, m.calls, m.channel, m.delivery, m.decided_at, a.starts_at
        FROM message m LEFT JOIN appointment a ON m.journey = 'reminder' AND a.clinic_id = m.clinic_id
            AND a.appointment_id = m.subject_id AND a.patient_id = m.patient_id
        WHERE m.clinic_id = $1 AND m.message_id = $2 FOR NO KEY UPDATE OF m
        """,
        (clinic_id, message_id),
    )
    row = result.one_or_none()
    return None if row is None else SentMessage(*list(row))


async def save_delivery(
    connection: AsyncConnection, clinic_id: UUID, message_id: UUID, delivery: str, at: datetime
) -> None:
    """Notes what the provider reported; the message is `sent` whatever it was, and nobody's work."""
    await connection.exec_driver_sql(
        """
        UPDATE message SET state = 'sent', delivery = $3, delivery_at = $4, reason = NULL,
            lease_until = NULL, retry_at = NULL, waiting_for = NULL, draft = NULL
        WHERE clinic_id = $1 AND message_id = $2
        """,
        (clinic_id, message_id, delivery, at),
    )
