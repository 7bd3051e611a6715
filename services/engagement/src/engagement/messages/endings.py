"""Ending what patients had coming: a release, an erasure. One statement for both.

The caller holds the patients' rows (`projections.store.lock_patient`, or has just written them), so no
sender is judging their messages meanwhile.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import fetch


class Ending(NamedTuple):
    """Why nothing more leaves for a patient.

    Args:
        decision: As JSON, in the form of `ledger.decision_json`.
        at: Since when.
    """

    clinic_id: UUID
    patient_id: UUID
    reason: str
    decision: str
    at: datetime


async def end_messages(connection: AsyncConnection, endings: Collection[Ending]) -> None:
    """Drops every message of the patients that has not left yet.

    One that a gateway may have taken without an answer ends as uncertain: nobody can say that it
    was withheld.
    """
    rows = sorted(endings)
    await fetch(
        connection,
        """
        UPDATE message m SET
            state = CASE WHEN m.waiting_for = 'answer' THEN 'uncertain' ELSE 'dropped' END,
            reason = e.reason, decided_at = e.at, decision = e.decision::jsonb,
            lease_until = NULL, retry_at = NULL, waiting_for = NULL, draft = NULL
        FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[])
            AS e (clinic_id, patient_id, reason, decision, at)
        WHERE m.clinic_id = e.clinic_id AND m.patient_id = e.patient_id AND m.state = 'scheduled'
        """,
        [row.clinic_id for row in rows],
        [row.patient_id for row in rows],
        [row.reason for row in rows],
        [row.decision for row in rows],
        [row.at for row in rows],
    )


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
