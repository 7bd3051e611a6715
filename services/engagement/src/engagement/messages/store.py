"""Set-based statements of the sender: claim, read all that is judged, write decisions and outcomes.

Real time (`real_now`) rules leases and retries, business time (`now`) what is due; see `tables`.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.two_z.domain import BAR_EVERYTHING
from revisit_chassis.db import fetch, fetch_value
from revisit_events.contracts.fields import LegalClass


class Claim(NamedTuple):
    """A claimed message: `attempt` is the fence of everything written about it."""

    clinic_id: UUID
    message_id: UUID
    patient_id: UUID
    attempt: int


# `due` and `retry` are disjoint from `lapsed`: the first two have no lease. A waiting message comes
# back for its expiry as well, so that what waits for ever ends with a reason.
_CLAIM = """
WITH due AS (
    SELECT clinic_id, message_id FROM message
    WHERE state = 'scheduled' AND retry_at IS NULL AND lease_until IS NULL AND due_at <= $1
    ORDER BY due_at, message_id LIMIT $4 FOR UPDATE SKIP LOCKED
), retry AS (
    SELECT clinic_id, message_id FROM message
    WHERE retry_at IS NOT NULL AND lease_until IS NULL AND retry_at <= $2
    ORDER BY retry_at LIMIT $4 FOR UPDATE SKIP LOCKED
), outlived AS (
    SELECT clinic_id, message_id FROM message
    WHERE retry_at IS NOT NULL AND lease_until IS NULL AND expires_at <= $1
    ORDER BY expires_at LIMIT $4 FOR UPDATE SKIP LOCKED
), lapsed AS (
    SELECT clinic_id, message_id FROM message
    WHERE lease_until IS NOT NULL AND lease_until <= $2
    ORDER BY lease_until LIMIT $4 FOR UPDATE SKIP LOCKED
), work AS (
    SELECT * FROM lapsed UNION SELECT * FROM outlived UNION SELECT * FROM retry
    UNION SELECT * FROM due
)
UPDATE message m SET lease_until = $3, attempt = attempt + 1, retry_at = NULL
FROM work WHERE m.clinic_id = work.clinic_id AND m.message_id = work.message_id
RETURNING m.clinic_id, m.message_id, m.patient_id, m.attempt
"""


async def claim(
    connection: AsyncConnection,
    now: datetime,
    real_now: datetime,
    lease_until: datetime,
    limit: int,
) -> list[Claim]:
    """Takes messages of any clinic that are work now; nobody else gets them until the lease ends.

    Runs as the worker role, which sees the messages of all clinics.

    Args:
        connection: Of the worker role.
        now: Business time: what is due by it.
        real_now: Real time: which retries and leases have run out.
        lease_until: Real time until which the claim holds.
        limit: Most messages of each kind of work.
    """
    rows = await fetch(connection, _CLAIM, now, real_now, lease_until, limit)
    return sorted(Claim(*list(row)) for row in rows)


async def next_due_at(connection: AsyncConnection, real_now: datetime) -> datetime | None:
    """When the next message is due, in business time.

    One that waits for a provider's recovery within 10 seconds, or for a contact, counts as due; one that
    waits for longer, for the feed or for the end of a pause counts only at its expiry.
    """
    moment: datetime | None = await fetch_value(
        connection,
        """
        SELECT least(
            (SELECT min(due_at) FROM message
                WHERE state = 'scheduled' AND retry_at IS NULL AND lease_until IS NULL),
            (SELECT min(due_at) FROM message WHERE lease_until IS NOT NULL),
            (SELECT min(due_at) FROM message WHERE retry_at <= $1::timestamptz + interval '10 s'
                AND lease_until IS NULL AND waiting_for IN ('provider', 'answer', 'contact')),
            (SELECT min(expires_at) FROM message WHERE retry_at IS NOT NULL AND lease_until IS NULL)
        )
        """,
        real_now,
    )
    return moment


_BAR_EVERYTHING = ", ".join(f"'{reason}'" for reason in sorted(BAR_EVERYTHING))
# A visit after a release begins a new obligation, as the 2Z rule has it. That no contact is owed takes no
# appointment away: who has one is reminded of it, but for the dead and who wants to hear nothing.
_IS_RELEASED = f"""EXISTS (
        SELECT FROM release r WHERE r.clinic_id = m.clinic_id AND r.patient_id = m.patient_id
            AND (m.legal_class <> 'service' OR r.reason IN ({_BAR_EVERYTHING}))
            AND NOT EXISTS (SELECT FROM visit w WHERE w.clinic_id = r.clinic_id
                AND w.patient_id = r.patient_id AND w.completed_at > r.released_at)
    )"""  # noqa: S608  # of constants
# An appointment or a visit that moved to another patient is nothing the old one should hear of.
_WHAT_IT_IS_ABOUT = """
LEFT JOIN patient p ON p.clinic_id = m.clinic_id AND p.patient_id = m.patient_id
LEFT JOIN appointment a ON m.journey = 'reminder' AND a.clinic_id = m.clinic_id
    AND a.appointment_id = m.subject_id AND a.patient_id = m.patient_id
LEFT JOIN visit v ON m.journey = 'follow-up' AND v.clinic_id = m.clinic_id
    AND v.visit_id = m.subject_id AND v.patient_id = m.patient_id
"""


class DueMessage(NamedTuple):
    """A claimed message with all that it is judged by and filled from."""

    clinic_id: UUID
    message_id: UUID
    patient_id: UUID
    journey: str
    step: str
    subject_id: UUID
    occurrence: str
    legal_class: LegalClass
    state: str
    due_at: datetime
    expires_at: datetime
    planned_at: datetime
    attempt: int
    calls: int
    channel: str | None
    draft: bytes | None
    waiting_for: str | None
    decided_at: datetime | None
    contact_ciphertext: bytes | None
    contact_precedence: str | None
    erased_at: datetime | None
    time_zone: str
    language: str | None
    clinic_language: str
    clinic_name: str
    country: str
    appointment_status: str | None
    starts_at: datetime | None
    completed_at: datetime | None
    is_released: bool


_SUBJECTS = f"""
SELECT m.clinic_id, m.message_id, m.patient_id, m.journey, m.step, m.subject_id, m.occurrence,
    m.legal_class, m.state, m.due_at, m.expires_at, m.planned_at, m.attempt, m.calls, m.channel, m.draft,
    m.waiting_for, m.decided_at,
    p.contact_ciphertext, p.contact_precedence, p.erased_at, coalesce(p.time_zone, c.time_zone),
    p.language, c.language, c.name, c.country,
    a.status, a.starts_at, v.completed_at, {_IS_RELEASED}
FROM unnest($1::uuid[], $2::uuid[], $3::int[]) AS k (clinic_id, message_id, attempt)
JOIN message m ON m.clinic_id = k.clinic_id AND m.message_id = k.message_id
    AND m.attempt = k.attempt AND m.state IN ('scheduled', 'sending')
JOIN clinic c ON c.clinic_id = m.clinic_id
{_WHAT_IT_IS_ABOUT}
ORDER BY m.clinic_id, m.message_id
FOR NO KEY UPDATE OF m
"""  # noqa: S608  # built of the constants above


async def lock_patients(connection: AsyncConnection, claims: Sequence[Claim]) -> None:
    """Keeps two senders from judging one patient side by side: each would miss the other's message.

    A consent given or taken back waits, or is seen: it takes the same lock.
    """
    patients = sorted({(one.clinic_id, one.patient_id) for one in claims})
    await fetch(
        connection,
        """
        SELECT 1 FROM patient p
        JOIN unnest($1::uuid[], $2::uuid[]) AS k (clinic_id, patient_id)
            ON p.clinic_id = k.clinic_id AND p.patient_id = k.patient_id
        ORDER BY p.clinic_id, p.patient_id FOR NO KEY UPDATE OF p
        """,
        [one[0] for one in patients],
        [one[1] for one in patients],
    )


async def subjects(connection: AsyncConnection, claims: Sequence[Claim]) -> list[DueMessage]:
    """The claimed messages that still are the claimer's, in order of their due times."""
    result = await fetch(
        connection,
        _SUBJECTS,
        [one.clinic_id for one in claims],
        [one.message_id for one in claims],
        [one.attempt for one in claims],
    )
    rows = [DueMessage(*list(row)) for row in result]
    return sorted(rows, key=lambda row: (row.due_at, row.message_id))


class Standing(NamedTuple):
    """What a message in `sending` is judged by, as it stands just before its call.

    `consent` holds texts of channel and state with a space between.
    """

    clinic_id: UUID
    message_id: UUID
    erased_at: datetime | None
    contact_precedence: str | None
    appointment_status: str | None
    starts_at: datetime | None
    completed_at: datetime | None
    is_released: bool
    consent: Sequence[str]
    pauses: Sequence[str]


_STANDING = f"""
SELECT m.clinic_id, m.message_id, p.erased_at, p.contact_precedence, a.status, a.starts_at,
    v.completed_at, {_IS_RELEASED},
    ARRAY(SELECT s.channel || ' ' || s.state FROM consent s WHERE s.clinic_id = m.clinic_id
        AND s.patient_id = m.patient_id AND s.purpose = m.legal_class),
    ARRAY(SELECT s.scope FROM pause s WHERE s.clinic_id = m.clinic_id)
FROM unnest($1::uuid[], $2::uuid[], $3::int[]) AS k (clinic_id, message_id, attempt)
JOIN message m ON m.clinic_id = k.clinic_id AND m.message_id = k.message_id
    AND m.attempt = k.attempt AND m.state = 'sending'
{_WHAT_IT_IS_ABOUT}
"""  # noqa: S608  # built of the constants above


async def standing(connection: AsyncConnection, claims: Sequence[Claim]) -> list[Standing]:
    """The messages in `sending` that still are the claimer's, with what may forbid them now."""
    result = await fetch(
        connection,
        _STANDING,
        [one.clinic_id for one in claims],
        [one.message_id for one in claims],
        [one.attempt for one in claims],
    )
    return [Standing(*row) for row in result]


class ConsentRow(NamedTuple):
    """What stands for a patient, a purpose and a channel."""

    clinic_id: UUID
    patient_id: UUID
    purpose: str
    channel: str
    state: str


async def consents(
    connection: AsyncConnection, patients: Collection[tuple[UUID, UUID]]
) -> list[ConsentRow]:
    """All that patients said about being contacted."""
    result = await fetch(
        connection,
        """
        SELECT c.clinic_id, c.patient_id, c.purpose, c.channel, c.state
        FROM unnest($1::uuid[], $2::uuid[]) AS k (clinic_id, patient_id)
        JOIN consent c ON c.clinic_id = k.clinic_id AND c.patient_id = k.patient_id
        """,
        [one[0] for one in patients],
        [one[1] for one in patients],
    )
    return [ConsentRow(*list(row)) for row in result]


async def sent_since(
    connection: AsyncConnection,
    patients: Collection[tuple[UUID, UUID]],
    legal_classes: Collection[str],
    since: datetime,
) -> list[tuple[UUID, UUID, UUID, datetime]]:
    """When messages of some classes left, or may have left: (clinic, patient, message, moment)."""
    result = await fetch(
        connection,
        """
        SELECT m.clinic_id, m.patient_id, m.message_id, m.decided_at
        FROM unnest($1::uuid[], $2::uuid[]) AS k (clinic_id, patient_id)
        JOIN message m ON m.clinic_id = k.clinic_id AND m.patient_id = k.patient_id
        WHERE (m.state IN ('sending', 'sent', 'uncertain') OR m.waiting_for = 'answer')
            AND m.legal_class = ANY ($3::text[]) AND m.decided_at >= $4
        """,
        [one[0] for one in patients],
        [one[1] for one in patients],
        list(legal_classes),
        since,
    )
    return [(row[0], row[1], row[2], row[3]) for row in result]


async def paused_scopes(
    connection: AsyncConnection, clinic_ids: Collection[UUID]
) -> dict[UUID, frozenset[str]]:
    """The paused scopes of clinics."""
    result = await fetch(
        connection,
        "SELECT clinic_id, array_agg(scope) FROM pause WHERE clinic_id = ANY ($1::uuid[]) GROUP BY 1",
        list(clinic_ids),
    )
    return {row[0]: frozenset(row[1]) for row in result}


class Decided(NamedTuple):
    """What the gate made of a claimed message."""

    clinic_id: UUID
    message_id: UUID
    attempt: int
    state: str
    channel: str | None
    reason: str | None
    decision: str
    decided_at: datetime
    due_at: datetime
    retry_at: datetime | None
    waiting_for: str | None
    lease_until: datetime | None
    draft: bytes | None


async def save_decisions(connection: AsyncConnection, rows: Sequence[Decided]) -> None:
    """Writes the decisions; the caller has the messages locked."""
    await fetch(
        connection,
        """
        UPDATE message m SET state = d.state, channel = d.channel, reason = d.reason,
            decision = d.decision::jsonb, decided_at = d.decided_at, due_at = d.due_at,
            retry_at = d.retry_at, waiting_for = d.waiting_for, lease_until = d.lease_until,
            draft = d.draft, calls = m.calls + (d.state = 'sending')::int
        FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::text[],
            $12::timestamptz[], $13::bytea[]) AS d (clinic_id, message_id, attempt, state, channel,
            reason, decision, decided_at, due_at, retry_at, waiting_for, lease_until, draft)
        WHERE m.clinic_id = d.clinic_id AND m.message_id = d.message_id AND m.attempt = d.attempt
        """,
        *map(list, zip(*rows, strict=True)),
    )


class Settled(NamedTuple):
    """What a provider's answer made of a message in `sending`."""

    clinic_id: UUID
    message_id: UUID
    attempt: int
    state: str
    reason: str | None
    provider_id: str | None
    retry_at: datetime | None
    waiting_for: str | None
    detail: str


async def save_outcomes(connection: AsyncConnection, rows: Sequence[Settled]) -> set[UUID]:
    """Writes outcomes, of those messages only that the claim still holds; returns their ids.

    What is to be tried again keeps its draft, everything else loses it.
    """
    result = await fetch(
        connection,
        """
        UPDATE message m SET state = s.state, reason = s.reason, retry_at = s.retry_at,
            provider_id = coalesce(s.provider_id, m.provider_id), lease_until = NULL,
            waiting_for = s.waiting_for, decision = m.decision || jsonb_build_object('provider', s.detail),
            draft = CASE WHEN s.retry_at IS NOT NULL THEN m.draft END
        FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::text[],
            $7::timestamptz[], $8::text[], $9::text[])
            AS s (clinic_id, message_id, attempt, state, reason, provider_id, retry_at, waiting_for,
                detail)
        WHERE m.clinic_id = s.clinic_id AND m.message_id = s.message_id AND m.attempt = s.attempt
            AND m.state = 'sending'
        RETURNING m.message_id
        """,
        *map(list, zip(*rows, strict=True)),
    )
    return {row.message_id for row in result}
