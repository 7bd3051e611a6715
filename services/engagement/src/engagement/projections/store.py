"""Writes of the projections: one set-based statement for a batch, by precedence.

Called by `consumers`. Each function takes events of a batch, keeps the newest for a key, writes
where it stands and returns what changed, so that the caller plans and checks only that. Rows are
written in order of their keys: two batches that meet never wait for each other in a circle.
"""

import base64
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.messages.windows import is_known_zone
from revisit_chassis.db import fetch
from revisit_events.contracts import (
    AppointmentBooked,
    ClinicRegistered,
    PatientContactChanged,
    PatientErased,
    PatientRegistered,
    VisitCompleted,
)
from revisit_events.envelope import Event

E = TypeVar("E", bound=Event[Any])


class Key(NamedTuple):
    """Clinic and id: the key of every row."""

    clinic_id: UUID
    id: UUID


class Touched(NamedTuple):
    """An appointment that an event changed, with a patient it belongs to, or belonged to before."""

    clinic_id: UUID
    appointment_id: UUID
    patient_id: UUID


def _newest(events: Iterable[E], key: Callable[[E], Key]) -> list[tuple[Key, str, E]]:
    """The event that stands for each key, with its precedence; the statements order by the keys."""
    standing: dict[Key, tuple[Key, str, E]] = {}
    for event in events:
        precedence, one = event.precedence, key(event)
        known = standing.get(one)
        if known is None or precedence > known[1]:
            standing[one] = (one, precedence, event)
    return list(standing.values())


_CLINICS = """
INSERT INTO clinic AS c (clinic_id, name, time_zone, language, currency, country, live_from, precedence)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
    $7::timestamptz[], $8::text[])
ORDER BY 1
ON CONFLICT (clinic_id) DO UPDATE SET
    name = excluded.name, time_zone = excluded.time_zone, language = excluded.language,
    currency = excluded.currency, country = excluded.country, live_from = excluded.live_from,
    precedence = excluded.precedence
WHERE excluded.precedence > c.precedence
RETURNING new.clinic_id,
    (old.time_zone, old.country, old.live_from) IS DISTINCT FROM
    (new.time_zone, new.country, new.live_from) AS is_replanned
"""


async def save_clinics(
    connection: AsyncConnection, events: Sequence[Event[ClinicRegistered]]
) -> list[UUID]:
    """Writes clinics; returns those whose messages are to be planned again."""
    rows = _newest(events, lambda event: Key(event.clinic_id, event.clinic_id))
    result = await fetch(
        connection,
        _CLINICS,
        [key.clinic_id for key, _, _ in rows],
        [e.data.name for _, _, e in rows],
        [e.data.time_zone if is_known_zone(e.data.time_zone) else "UTC" for _, _, e in rows],
        [e.data.language for _, _, e in rows],
        [e.data.currency for _, _, e in rows],
        [e.data.country for _, _, e in rows],
        [e.data.live_from or e.time for _, _, e in rows],
        [precedence for _, precedence, _ in rows],
    )
    return [row.clinic_id for row in result if row.is_replanned]


_PATIENTS = """
INSERT INTO patient AS p (clinic_id, patient_id, language, time_zone, precedence)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[])
ORDER BY 1, 2
ON CONFLICT (clinic_id, patient_id) DO UPDATE SET
    language = excluded.language, time_zone = excluded.time_zone, precedence = excluded.precedence
WHERE p.precedence IS NULL OR excluded.precedence > p.precedence
RETURNING new.clinic_id, new.patient_id, old.time_zone IS DISTINCT FROM new.time_zone AS is_replanned
"""


async def save_patients(
    connection: AsyncConnection, events: Sequence[Event[PatientRegistered]]
) -> list[Key]:
    """Writes what is not personal of patients; returns those whose time zone is another one now."""
    rows = _newest(events, lambda event: Key(event.clinic_id, event.data.patient_id))
    zones = [e.data.time_zone for _, _, e in rows]
    result = await fetch(
        connection,
        _PATIENTS,
        [key.clinic_id for key, _, _ in rows],
        [key.id for key, _, _ in rows],
        [e.data.language for _, _, e in rows],
        [zone if zone and is_known_zone(zone) else None for zone in zones],
        [precedence for _, precedence, _ in rows],
    )
    return [Key(row.clinic_id, row.patient_id) for row in result if row.is_replanned]


_CONTACTS = """
INSERT INTO patient AS p
    (clinic_id, patient_id, contact_ciphertext, contact_precedence)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::text[])
ORDER BY 1, 2
ON CONFLICT (clinic_id, patient_id) DO UPDATE SET
    contact_ciphertext = CASE WHEN p.erased_at IS NULL THEN excluded.contact_ciphertext END,
    contact_precedence = excluded.contact_precedence
WHERE p.contact_precedence IS NULL OR excluded.contact_precedence > p.contact_precedence
"""


async def save_contacts(
    connection: AsyncConnection, events: Sequence[Event[PatientContactChanged]]
) -> None:
    """Keeps the encrypted contact blocks as they came; an erased patient's is never stored again."""
    rows = _newest(events, lambda event: Key(event.clinic_id, event.data.patient_id))
    contacts = [e.data.contact for _, _, e in rows]
    await fetch(
        connection,
        _CONTACTS,
        [key.clinic_id for key, _, _ in rows],
        [key.id for key, _, _ in rows],
        [base64.b64decode(contact.ciphertext) if contact else None for contact in contacts],
        [precedence for _, precedence, _ in rows],
    )


_ERASURES = """
INSERT INTO patient AS p (clinic_id, patient_id, erased_at)
SELECT clinic_id, patient_id, min(erased_at)
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS e (clinic_id, patient_id, erased_at)
GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (clinic_id, patient_id) DO UPDATE SET
    contact_ciphertext = NULL,
    erased_at = LEAST(p.erased_at, excluded.erased_at)
RETURNING clinic_id, patient_id, erased_at
"""


async def erase_patients(
    connection: AsyncConnection, events: Sequence[Event[PatientErased]]
) -> dict[Key, datetime]:
    """Removes the contacts for good; erasure is terminal, so no precedence can undo it.

    Gives the moment of each patient's erasure: the earliest told.
    """
    rows = await fetch(
        connection,
        _ERASURES,
        [e.clinic_id for e in events],
        [e.data.patient_id for e in events],
        [e.time for e in events],
    )
    return {Key(row.clinic_id, row.patient_id): row.erased_at for row in rows}


async def lock_patient(connection: AsyncConnection, clinic_id: UUID, patient_id: UUID) -> None:
    """Takes the first lock in the order: a sender that judges this patient's messages holds it."""
    await fetch(
        connection,
        "SELECT FROM patient WHERE clinic_id = $1 AND patient_id = $2 FOR NO KEY UPDATE",
        clinic_id,
        patient_id,
    )


def _where_newer(columns: str, precedence: str) -> str:
    newer = f"a.{precedence} IS NULL OR excluded.{precedence} > a.{precedence}"
    return ", ".join(
        f"{column} = CASE WHEN {newer} THEN excluded.{column} ELSE a.{column} END"
        for column in columns.split()
    )


_SCHEDULE = (
    "practitioner_id service_code modality starts_at ends_at booked_at scheduled_at "
    "schedule_precedence"
)
_STATUS = "patient_id status status_precedence"
_TOUCHED = """
RETURNING new.clinic_id, new.appointment_id, new.patient_id, old.patient_id AS former_patient_id
"""

# The two groups stand apart: a cancellation that came first keeps the status, its booking brings
# the plan.
_SCHEDULES = f"""
INSERT INTO appointment AS a
    (clinic_id, appointment_id, patient_id, practitioner_id, service_code, modality,
     starts_at, ends_at, booked_at, scheduled_at, schedule_precedence, status, status_precedence)
SELECT *, 'booked', s.schedule_precedence FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[],
    $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[], $9::timestamptz[],
    $10::timestamptz[], $11::text[]) AS s (clinic_id, appointment_id, patient_id, practitioner_id,
    service_code, modality, starts_at, ends_at, booked_at, scheduled_at, schedule_precedence)
ORDER BY 1, 2
ON CONFLICT (clinic_id, appointment_id) DO UPDATE SET
    {_where_newer(_SCHEDULE, "schedule_precedence")}, {_where_newer(_STATUS, "status_precedence")}
WHERE a.schedule_precedence IS NULL OR excluded.schedule_precedence > a.schedule_precedence
    OR excluded.status_precedence > a.status_precedence
{_TOUCHED}
"""  # noqa: S608  # built of the constants above


async def save_schedules(
    connection: AsyncConnection, events: Sequence[Event[AppointmentBooked]]
) -> list[Touched]:
    """Writes the plan and the status of booked and rescheduled appointments; returns what changed."""
    rows = _newest(events, lambda event: Key(event.clinic_id, event.data.appointment_id))
    result = await fetch(
        connection,
        _SCHEDULES,
        [key.clinic_id for key, _, _ in rows],
        [key.id for key, _, _ in rows],
        [e.data.patient_id for _, _, e in rows],
        [e.data.practitioner_id for _, _, e in rows],
        [e.data.service_code for _, _, e in rows],
        [e.data.modality for _, _, e in rows],
        [e.data.starts_at for _, _, e in rows],
        [e.data.ends_at for _, _, e in rows],
        [e.data.booked_at or e.time for _, _, e in rows],
        [_scheduled_at(e) for _, _, e in rows],
        [precedence for _, precedence, _ in rows],
    )
    return _touched(result)


def _touched(rows: Iterable[Any]) -> list[Touched]:
    """A correction may give an appointment to another patient: then it was taken from one."""
    return [
        Touched(row.clinic_id, row.appointment_id, patient_id)
        for row in rows
        for patient_id in {row.patient_id, row.former_patient_id} - {None}
    ]


def _scheduled_at(event: Event[AppointmentBooked]) -> datetime:
    is_first = event.data.TYPE == AppointmentBooked.TYPE
    return (event.data.booked_at or event.time) if is_first else event.time


_STATUSES = f"""
INSERT INTO appointment AS a (clinic_id, appointment_id, patient_id, status, status_precedence)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[])
ON CONFLICT (clinic_id, appointment_id) DO UPDATE SET {_where_newer(_STATUS, "status_precedence")}
WHERE excluded.status_precedence > a.status_precedence
{_TOUCHED}
"""  # noqa: S608  # built of the constants above


class Place(NamedTuple):
    """What a clinic said of itself.

    Args:
        time_zone: IANA zone.
        country: ISO 3166 code.
        live_from: What happened before it is history.
    """

    time_zone: str
    country: str
    live_from: datetime


class SavedVisit(NamedTuple):
    """A visit that an event changed.

    Args:
        event: What it says.
        place: Of the clinic; None while it is unknown.
        former_patient_id: Whose visit it was until then, where a correction says that it was not.
        is_new: Nothing was known of it until now.
        time_zone: The patient's own, where it is known.
        erased_at: When the patient was erased.
    """

    event: Event[VisitCompleted]
    place: Place | None
    former_patient_id: UUID | None
    is_new: bool
    time_zone: str | None
    erased_at: datetime | None


class StatusRow(NamedTuple):
    """A status that an event gives to an appointment."""

    clinic_id: UUID
    appointment_id: UUID
    patient_id: UUID
    status: str
    precedence: str


async def save_statuses(
    connection: AsyncConnection, statuses: Iterable[StatusRow]
) -> list[Touched]:
    """Writes statuses of appointments, known or not; returns those that stand now."""
    standing: dict[Key, StatusRow] = {}
    for row in statuses:
        key = Key(row.clinic_id, row.appointment_id)
        if key not in standing or row.precedence > standing[key].precedence:
            standing[key] = row
    rows = [standing[key] for key in sorted(standing)]
    if not rows:
        return []
    result = await fetch(connection, _STATUSES, *map(list, zip(*rows, strict=True)))
    return _touched(result)


# What a plan needs beside the visit comes along, which saves a round trip: of the patient in the visit's
# row, of the clinic, which many visits have in common, in a row of its own that is without a visit.
def _saving_visits(outcome: str) -> str:
    return f"""
WITH saved AS (
    INSERT INTO visit AS v (clinic_id, visit_id, patient_id, appointment_id, practitioner_id,
        service_code, kind, outcome, referral_urgency, next_visit_due_on, completed_at, precedence)
    SELECT * FROM unnest($1::told_visit[]) ORDER BY clinic_id, visit_id
    {outcome}
)
SELECT clinic_id, NULL AS visit_id, NULL AS former_patient_id, NULL AS is_new, time_zone, live_from, country
FROM clinic JOIN (SELECT DISTINCT clinic_id FROM saved) AS theirs USING (clinic_id)
UNION ALL
SELECT clinic_id, visit_id, former_patient_id, is_new, p.time_zone, p.erased_at, NULL
FROM saved AS s LEFT JOIN LATERAL (
    SELECT time_zone, erased_at FROM patient
    WHERE clinic_id = s.clinic_id AND patient_id = s.patient_id OFFSET 0
) AS p ON true
"""  # noqa: S608  # built of the constants below


_VISITS = _saving_visits(
    """
    ON CONFLICT (clinic_id, visit_id) DO UPDATE SET
        patient_id = excluded.patient_id, appointment_id = excluded.appointment_id,
        practitioner_id = excluded.practitioner_id, service_code = excluded.service_code,
        kind = excluded.kind, outcome = excluded.outcome, referral_urgency = excluded.referral_urgency,
        next_visit_due_on = excluded.next_visit_due_on, completed_at = excluded.completed_at,
        precedence = excluded.precedence
    WHERE excluded.precedence > v.precedence
    RETURNING new.clinic_id, new.visit_id, new.patient_id,
        nullif(old.patient_id, new.patient_id) AS former_patient_id, old.visit_id IS NULL AS is_new
"""
)
_NEW_VISITS = _saving_visits(
    "RETURNING clinic_id, visit_id, patient_id, NULL::uuid AS former_patient_id, true AS is_new"
)


async def save_visits(
    connection: AsyncConnection, events: Sequence[Event[VisitCompleted]], *, are_new: bool = False
) -> list[SavedVisit]:
    """Writes completed visits; returns those that stand.

    Args:
        connection: Inside a transaction of their clinics.
        events: Of visits.
        are_new: Whether to guess that none of these visits is known.

    Raises:
        asyncpg.UniqueViolationError: That was wrong, and the transaction has failed.
    """
    newest = _newest(events, lambda event: Key(event.clinic_id, event.data.visit_id))
    rows = [
        (
            key.clinic_id,
            key.id,
            (data := event.data).patient_id,
            data.appointment_id,
            data.practitioner_id,
            data.service_code,
            data.kind,
            data.outcome,
            data.referral.urgency if data.referral else None,
            data.next_visit_due_on,
            data.completed_at,
            precedence,
        )
        for key, precedence, event in newest
    ]
    events_by_key: dict[tuple[UUID, UUID], Event[VisitCompleted]] = {
        key: event for key, _, event in newest
    }
    clinics: dict[UUID, Place] = {}
    visits = []
    for clinic_id, visit_id, former, is_new, time_zone, moment, country in await fetch(
        connection, _NEW_VISITS if are_new else _VISITS, rows
    ):
        if visit_id is None:
            clinics[clinic_id] = Place(time_zone, country, moment)
        else:
            event = events_by_key[clinic_id, visit_id]
            visits.append((event, clinic_id, former, is_new, time_zone, moment))
    return [SavedVisit(event, clinics.get(clinic_id), *rest) for event, clinic_id, *rest in visits]


def status_rows(events: Iterable[Event[Any]], status: str) -> list[StatusRow]:
    """What events of an appointment's life say about its status."""
    return [
        StatusRow(
            event.clinic_id,
            event.data.appointment_id,
            event.data.patient_id,
            status,
            event.precedence,
        )
        for event in events
    ]
