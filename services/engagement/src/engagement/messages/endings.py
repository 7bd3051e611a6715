"""Ending what patients had coming: a release, an erasure. One statement for both.

The caller holds the patients' rows (`projections.store.lock_patient`, or has just written them), so no
sender is judging their messages meanwhile.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.messages import notices
from revisit_chassis.db import Row, fetch
from revisit_events.envelope import AnyEvent
from revisit_events.outbox import publish


class Ending(NamedTuple):
    """Why nothing more leaves for a patient.

    Args:
        decision: As JSON, in the form of `ledger.decision_json`.
        at: Since when.
        spares_service: Whether what is said of an appointment may still leave.
    """

    clinic_id: UUID
    patient_id: UUID
    reason: str
    decision: str
    at: datetime
    spares_service: bool = False


async def end_messages(connection: AsyncConnection, endings: Collection[Ending]) -> None:
    """Drops the messages of the patients that have not left yet, each unless its ending spares it.

    One that a gateway may have taken without an answer ends as uncertain: nobody can say that it
    was withheld, and that is told.
    """
    rows = sorted(endings)
    ended = await fetch(
        connection,
        """
        UPDATE message m SET
            state = CASE WHEN m.waiting_for = 'answer' THEN 'uncertain' ELSE 'dropped' END,
            reason = e.reason, decided_at = e.at, decision = e.decision::jsonb,
            lease_until = NULL, retry_at = NULL, waiting_for = NULL, draft = NULL
        FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::boolean[])
            AS e (clinic_id, patient_id, reason, decision, at, spares_service)
        WHERE m.clinic_id = e.clinic_id AND m.patient_id = e.patient_id AND m.state = 'scheduled'
            AND NOT (e.spares_service AND m.legal_class = 'service')
        RETURNING m.clinic_id, m.message_id, m.patient_id, m.journey, m.step, m.subject_id, m.legal_class,
            m.channel, m.state, m.decided_at, NULL::timestamptz AS starts_at
        """,
        [row.clinic_id for row in rows],
        [row.patient_id for row in rows],
        [row.reason for row in rows],
        [row.decision for row in rows],
        [row.at for row in rows],
        [row.spares_service for row in rows],
    )
    await publish(connection, [_doubt(row) for row in ended if row.state == "uncertain"])


def _doubt(row: Row) -> AnyEvent:
    keys = notices.keys_of(row)
    return notices.failed(keys, row.step, row.channel or "unknown", "uncertain", row.decided_at)


async def forget_texts(connection: AsyncConnection, patients: Sequence[tuple[UUID, UUID]]) -> None:
    """Removes the drafts of (clinic, patient), also of a message that is leaving this moment.

    Its call is under way or lost by now; either way the gate lets no second one follow.
    """
    await fetch(
        connection,
        """
        UPDATE message m SET draft = NULL
        FROM unnest($1::uuid[], $2::uuid[]) AS k (clinic_id, patient_id)
        WHERE m.clinic_id = k.clinic_id AND m.patient_id = k.patient_id AND m.draft IS NOT NULL
        """,
        [patient[0] for patient in patients],
        [patient[1] for patient in patients],
    )
