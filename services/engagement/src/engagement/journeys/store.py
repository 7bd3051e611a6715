"""What the plans are made from, and the set-based statements that bring messages into line with them."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.journeys.domain import Recipient
from engagement.messages.domain import Planned
from engagement.projections.store import Key
from revisit_chassis.db import fetch
from revisit_events.outbox import Form, telling

PLAN_BATCH = 1000


class Subject(NamedTuple):
    """A visit or an appointment with its recipient.

    Args:
        recipient: Who it belongs to.
        subject_id: The visit or appointment.
        happens_at: Completion of the visit, start of the appointment.
        scheduled_at: When that start was agreed; None for a visit.
    """

    recipient: Recipient
    subject_id: UUID
    happens_at: datetime
    scheduled_at: datetime | None


_RECIPIENT = """
    coalesce(p.time_zone, c.time_zone) AS time_zone, c.country, c.live_from, p.erased_at
"""
# Row by row through the primary keys (OFFSET keeps the planner from undoing it): before the tables have
# statistics it would rather read all of a clinic's visits for each batch.
_VISITS = f"""
SELECT v.clinic_id, v.visit_id AS subject_id, v.patient_id, v.completed_at AS happens_at,
    NULL::timestamptz AS scheduled_at, {_RECIPIENT}
FROM unnest($1::uuid[], $2::uuid[]) AS k (clinic_id, visit_id)
CROSS JOIN LATERAL (
    SELECT * FROM visit WHERE clinic_id = k.clinic_id AND visit_id = k.visit_id OFFSET 0
) AS v
JOIN clinic c ON c.clinic_id = v.clinic_id
LEFT JOIN LATERAL (
    SELECT * FROM patient WHERE clinic_id = v.clinic_id AND patient_id = v.patient_id OFFSET 0
) AS p ON true
"""  # noqa: S608  # built of the constant above
_APPOINTMENTS = f"""
SELECT a.clinic_id, a.appointment_id AS subject_id, a.patient_id, a.starts_at AS happens_at,
    a.scheduled_at, {_RECIPIENT}
FROM unnest($1::uuid[], $2::uuid[]) AS k (clinic_id, appointment_id)
CROSS JOIN LATERAL (
    SELECT * FROM appointment
    WHERE clinic_id = k.clinic_id AND appointment_id = k.appointment_id OFFSET 0
) AS a
JOIN clinic c ON c.clinic_id = a.clinic_id
LEFT JOIN LATERAL (
    SELECT * FROM patient WHERE clinic_id = a.clinic_id AND patient_id = a.patient_id OFFSET 0
) AS p ON true
WHERE a.starts_at IS NOT NULL
"""  # noqa: S608  # built of the constant above


async def visits(connection: AsyncConnection, keys: Sequence[Key]) -> list[Subject]:
    """The visits whose clinic is known."""
    return await _subjects(connection, _VISITS, keys)


async def appointments(connection: AsyncConnection, keys: Sequence[Key]) -> list[Subject]:
    """The appointments whose clinic and schedule are known."""
    return await _subjects(connection, _APPOINTMENTS, keys)


async def _subjects(connection: AsyncConnection, sql: str, keys: Sequence[Key]) -> list[Subject]:
    rows = await fetch(connection, sql, [key.clinic_id for key in keys], [key.id for key in keys])
    # In the order of the statements' columns, and of the fields of a recipient.
    return [
        Subject(Recipient(clinic_id, patient_id, *rest), subject_id, happens_at, scheduled_at)
        for clinic_id, subject_id, patient_id, happens_at, scheduled_at, *rest in rows
    ]


async def lock_unknown_clinics(connection: AsyncConnection, clinic_ids: Collection[UUID]) -> None:
    """Waits for registrations of these clinics that are under way, and makes later ones wait.

    Without it a visit and its clinic's registration, committed side by side by two consumers, would
    each miss the other, and nobody would ever plan the visit's message.
    """
    await fetch(
        connection,
        "SELECT pg_advisory_xact_lock_shared(k) FROM unnest($1::bigint[]) AS k",
        _lock_keys(clinic_ids),
    )


async def lock_clinics(connection: AsyncConnection, clinic_ids: Collection[UUID]) -> None:
    """Before a registration is written: waits for those that hold the clinic to be unknown."""
    await fetch(
        connection,
        "SELECT pg_advisory_xact_lock(k) FROM unnest($1::bigint[]) AS k",
        _lock_keys(clinic_ids),
    )


def _lock_keys(clinic_ids: Collection[UUID]) -> list[int]:
    return sorted({int.from_bytes(one.bytes[:8], "big", signed=True) for one in clinic_ids})


async def subjects_of_clinic(
    connection: AsyncConnection, kind: str, clinic_id: UUID, after: UUID | None
) -> list[Key]:
    """The next visits or appointments of a clinic, in order of their ids.

    Args:
        connection: Inside a transaction of the clinic.
        kind: `visit` or `appointment`.
        clinic_id: The clinic.
        after: The last id seen.
    """
    rows = await fetch(
        connection,
        f"SELECT {kind}_id FROM {kind} WHERE clinic_id = $1 "  # noqa: S608  # one of two words of ours
        f"AND ($2::uuid IS NULL OR {kind}_id > $2) ORDER BY {kind}_id LIMIT $3",
        clinic_id,
        after,
        PLAN_BATCH,
    )
    return [Key(clinic_id, row[0]) for row in rows]


async def subjects_of_patients(
    connection: AsyncConnection, patients: Sequence[Key]
) -> dict[str, list[Key]]:
    """What messages of patients that were never claimed are about, by journey."""
    rows = await fetch(
        connection,
        """
        SELECT DISTINCT m.clinic_id, m.journey, m.subject_id
        FROM unnest($1::uuid[], $2::uuid[]) AS k (clinic_id, patient_id)
        JOIN message m ON m.clinic_id = k.clinic_id AND m.patient_id = k.patient_id
        WHERE m.state = 'scheduled' AND m.attempt = 0
        """,
        [key.clinic_id for key in patients],
        [key.id for key in patients],
    )
    found: dict[str, list[Key]] = {}
    for row in rows:
        found.setdefault(row.journey, []).append(Key(row.clinic_id, row.subject_id))
    return found


async def withdraw(
    connection: AsyncConnection,
    journey: str,
    subjects: Sequence[Key],
    planned: Collection[UUID],
) -> None:
    """Takes back messages about subjects that are no longer planned.

    Only those that were never claimed: they were never due. What is in hand or has waited stays,
    and the gate drops it with its reason.
    """
    await fetch(
        connection,
        """
        DELETE FROM message m USING unnest($2::uuid[], $3::uuid[]) AS k (clinic_id, subject_id)
        WHERE m.clinic_id = k.clinic_id AND m.subject_id = k.subject_id AND m.journey = $1
            AND m.attempt = 0 AND m.message_id <> ALL ($4::uuid[])
        """,
        journey,
        [key.clinic_id for key in subjects],
        [key.id for key in subjects],
        list(planned),
    )


class Enrolment(NamedTuple):
    """One run of a journey; the columns of the database's type `new_enrolment`."""

    clinic_id: UUID
    enrolment_id: UUID
    patient_id: UUID
    subject_id: UUID


class Journey(NamedTuple):
    """What all runs of a journey have in common.

    Args:
        name: Its key.
        version: Its version.
        told: The event of a run whose ids are places.
    """

    name: str
    version: int
    told: Form


# Both at once, for each round trip counts where events come one by one. The plans come first: what is not
# referred to would be written last, and everybody takes messages before other locks.
def _saving_plans(if_planned: str = "", if_enrolled: str = "") -> str:
    return f"""
WITH planned AS (
    INSERT INTO message AS m (clinic_id, message_id, patient_id, journey, step, subject_id,
        occurrence, legal_class, due_at, expires_at, decided_at, state, reason, decision)
    SELECT *, CASE WHEN erased_at IS NULL THEN 'scheduled' ELSE 'dropped' END,
        CASE WHEN erased_at IS NOT NULL THEN 'patient_erased' END,
        CASE WHEN erased_at IS NOT NULL THEN $2::text::jsonb END
    FROM unnest($1::planned_message[])
    ORDER BY clinic_id, message_id
    {if_planned}
    RETURNING true
), enrolled AS (
    INSERT INTO enrolment (clinic_id, enrolment_id, patient_id, subject_id, journey, version)
    SELECT *, $4::text, $5::int FROM unnest($3::new_enrolment[])
    WHERE (SELECT count(*) FROM planned) IS NOT NULL
    ORDER BY clinic_id, enrolment_id
    {if_enrolled}
    RETURNING clinic_id, enrolment_id, patient_id, subject_id
), {telling("enrolled", ", ".join(Enrolment._fields), 6)}
"""  # noqa: S608  # built of the constants below


_SAVE_PLANS = _saving_plans(
    """
    ON CONFLICT (clinic_id, message_id) DO UPDATE SET
        due_at = excluded.due_at, expires_at = excluded.expires_at
    WHERE m.state = 'scheduled' AND m.attempt = 0
        AND (m.due_at, m.expires_at) <> (excluded.due_at, excluded.expires_at)
    """,
    "ON CONFLICT DO NOTHING",
)
_SAVE_NEW_PLANS = _saving_plans()


async def save_plans(
    connection: AsyncConnection,
    journey: Journey,
    plans: Sequence[Planned],
    enrolments: Sequence[Enrolment],
    erased_decision: str,
    *,
    are_new: bool,
) -> None:
    """Writes planned messages, enrols those who are not yet, and tells of each.

    A message that exists already is only moved, and only before its first claim. A transaction that books
    and completes an appointment comes here twice: what it told the first time is no news the second.

    Args:
        connection: Inside a transaction of their clinics.
        journey: The journey.
        plans: What ought to exist.
        enrolments: Runs, known or not.
        erased_decision: The decision, as JSON, for messages of patients already erased.
        are_new: Whether to guess that none of them is there.

    Raises:
        asyncpg.UniqueViolationError: That was wrong, and the transaction has failed.
    """
    name, version, told = journey
    statement = _SAVE_NEW_PLANS if are_new else _SAVE_PLANS
    await fetch(connection, statement, plans, erased_decision, enrolments, name, version, *told)
