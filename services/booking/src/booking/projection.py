"""What reported facts make of booking's rows: `apply`, for events of any type, in any order.

Called by the intake of `POST /v1/events` and by every use case, so there is one way to state. It is the
hottest path of the product (every visit of every clinic): one statement a table, arrays in, nothing read
into Python. Of several events about one row the statement itself takes the one that stands.

Locks come in one order, so that two batches wait for each other and do not deadlock: identifiers, stubs,
clinics, patients, appointments, visits, lost leads, and within a table by key. Commands keep to it. One
case is left: patients whom nobody named before are locked with their identifiers, so two batches that load
the same new patients at once may meet in a circle; PostgreSQL ends it, and the intake tries again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from booking import tables
from booking.domain.appointment import Status, no_show_due_at
from booking.store.named import forget_identifiers, make_stubs
from booking.store.rows import run
from revisit_chassis.db import fetch
from revisit_events.contracts import (
    AppointmentBooked,
    AppointmentCancelled,
    AppointmentConfirmed,
    AppointmentNoShow,
    AppointmentNoShowReversed,
    AppointmentRescheduled,
    ClinicRegistered,
    EventData,
    LeadLost,
    PatientContactChanged,
    PatientErased,
    PatientRegistered,
    VisitCompleted,
)
from revisit_events.envelope import AnyEvent, new_event
from revisit_events.outbox import publish

SOURCE = "/booking"

Row = tuple[Any, ...]


class Person(NamedTuple):
    """What a patient's row holds besides reported facts: both encrypted, and when they were told."""

    identity: bytes
    contacts: bytes
    told_at: datetime | None


STATUS_AFTER: Mapping[type[EventData], Status] = {
    AppointmentBooked: Status.BOOKED,
    AppointmentRescheduled: Status.BOOKED,
    AppointmentConfirmed: Status.CONFIRMED,
    AppointmentCancelled: Status.CANCELLED,
    AppointmentNoShow: Status.NO_SHOW,
    AppointmentNoShowReversed: Status.ARRIVED,
    VisitCompleted: Status.COMPLETED,
}
"""Where each event leaves the appointment that it names."""


def upsert_statement(
    table: sa.Table,
    reported: sa.Table,
    precedence: str,
    *,
    keep: Sequence[str] = (),
    also_set: str = "",
    only_where: str = "",
) -> str:
    """SQL that takes an array of rows and lets the greatest precedence of each row stand.

    Args:
        table: Target; its primary key decides what one row is.
        reported: The type of the rows, `tables.REPORTED`: one group's columns, keys included.
        precedence: Name of the group's precedence column.
        keep: Columns for a new row only.
        also_set: Further assignments where the row changes.
        only_where: Further condition for a change.
    """
    keys = [column.name for column in table.primary_key]
    columns = reported.columns.keys()
    names, key_names = ", ".join(columns), ", ".join(keys)
    changes = [f"{name} = excluded.{name}" for name in columns if name not in {*keys, *keep}]
    changes += [also_set] if also_set else []
    condition = f"excluded.{precedence} > {table.name}.{precedence}"
    condition += f" AND {only_where}" if only_where else ""
    # Every name comes from the table objects of this package.
    return (
        f"INSERT INTO {table.name} ({names}) "  # noqa: S608
        f"SELECT DISTINCT ON ({key_names}) {names} FROM unnest($1::{reported.name}[]) AS reported "
        f'ORDER BY {key_names}, {precedence} COLLATE "C" DESC '
        f"ON CONFLICT ({key_names}) DO UPDATE SET {', '.join(changes)} WHERE {condition}"
    )


SCHEDULES = upsert_statement(
    tables.appointment,
    tables.reported_schedule,
    "schedule_precedence",
    keep=("patient_id",),
    # A new plan answers the wish to move the old one; reported late it changes the plan alone.
    also_set="move_requested_at = NULL, version = appointment.version + 1",
)
STATUSES = upsert_statement(
    tables.appointment,
    tables.reported_status,
    "status_precedence",
    also_set="version = appointment.version + 1",
)
VISITS = upsert_statement(tables.visit, tables.reported_visit, "precedence")
LEADS = upsert_statement(tables.lost_lead, tables.reported_lead, "precedence")
CLINICS = upsert_statement(
    tables.clinic,
    tables.reported_clinic,
    "precedence",
    also_set="version = clinic.version + 1",
)
PATIENTS = upsert_statement(
    tables.patient,
    tables.reported_patient,
    "precedence",
    also_set="version = patient.version + 1",
    only_where="patient.erased_at IS NULL",
)
LOCKED_PATIENT = """
UPDATE patient SET
  birth_year = $3, sex = $4, language = $5, time_zone = $6, family_id = $7, payer = $8,
  employer_id = $9, is_chronic = $10, acquisition_channel = $11, acquisition_cost_minor = $12,
  acquisition_currency = $13, precedence = $14, version = $15,
  identity_encrypted = coalesce($16, identity_encrypted),
  contacts_encrypted = coalesce($17, contacts_encrypted),
  contacts_told_at = coalesce($18, contacts_told_at)
WHERE clinic_id = $1 AND patient_id = $2
"""
ERASE = """
INSERT INTO patient (clinic_id, patient_id, erased_at)
SELECT clinic_id, patient_id, min(erased_at)
FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS erased (clinic_id, patient_id, erased_at)
GROUP BY 1, 2 ORDER BY 1, 2
ON CONFLICT (clinic_id, patient_id) DO UPDATE SET
  birth_year = NULL, sex = NULL, language = NULL, time_zone = NULL, family_id = NULL, payer = NULL,
  employer_id = NULL, is_chronic = NULL, acquisition_channel = NULL, acquisition_cost_minor = NULL,
  acquisition_currency = NULL, identity_encrypted = NULL, contacts_encrypted = NULL, precedence = '',
  contacts_told_at = NULL,
  erased_at = least(patient.erased_at, excluded.erased_at), version = patient.version + 1
"""
LOCK_PATIENTS = """
SELECT FROM patient JOIN unnest($1::uuid[], $2::uuid[]) AS meant (clinic_id, patient_id)
  USING (clinic_id, patient_id)
ORDER BY clinic_id, patient_id FOR UPDATE OF patient
"""
# What is retained for a replay is told again as it was; a contact block must not be.
FORGET_CONTACTS = """
UPDATE outbox SET data = NULL
FROM unnest($1::uuid[], $2::uuid[]) AS erased (clinic_id, patient_id)
WHERE outbox.clinic_id = erased.clinic_id AND topic = 'patient.contact_changed' AND data IS NOT NULL
  AND key = erased.clinic_id || ':' || erased.patient_id
"""


async def apply(connection: AsyncConnection, events: Sequence[AnyEvent], now: datetime) -> None:  # noqa: ARG001, C901
    """Brings the rows to what the events report; the same for any order and repetition.

    Args:
        connection: Inside the transaction of the request.
        events: Events of types that booking owns.
        now: Moment of the request; facts carry their own times, so nothing depends on it.
    """
    schedules: list[Row] = []
    statuses: list[Row] = []
    visits: list[Row] = []
    leads: list[Row] = []
    clinics: list[Row] = []
    patients: list[Row] = []
    erased: list[AnyEvent] = []
    for event in events:
        match event.data:
            case VisitCompleted() as data:
                precedence = event.precedence
                visits.append(_visit_row(event, data, precedence))
                if data.appointment_id is not None:
                    statuses.append(_status_row(event, precedence))
            case AppointmentBooked() as data:  # and rescheduled, its subclass
                precedence = event.precedence
                schedules.append(_schedule_row(event, data, precedence))
                statuses.append(_status_row(event, precedence))
            case PatientRegistered() as data:  # and updated, its subclass
                patients.append(_patient_row(event, data))
            case LeadLost() as data:
                leads.append(_lead_row(event, data))
            case ClinicRegistered() as data:
                clinics.append(_clinic_row(event, data))
            case PatientErased():
                erased.append(event)
            case _ if type(event.data) in STATUS_AFTER:
                statuses.append(_status_row(event, event.precedence))
    await _make_stubs_of(connection, events)
    if erased:
        await _erase(connection, erased, patients)
    for statement, rows in (
        (CLINICS, clinics),
        (PATIENTS, patients),
        # Every report of a plan is one of a status too, so this one takes all locks, in their order.
        (STATUSES, statuses),
        (SCHEDULES, schedules),
        (VISITS, visits),
        (LEADS, leads),
    ):
        if rows:
            await run_rows(connection, statement, rows)


async def apply_to_locked_patient(
    connection: AsyncConnection, event: AnyEvent, version: int, person: Person | None
) -> None:
    """Does what `apply` does, for a registration or update of a patient whose row the caller holds.

    Such an event refers to nothing but that row, so nothing needs a stub, and what no event carries is
    written with it.

    Args:
        connection: Inside the transaction that has locked the row.
        event: Of `PatientRegistered` or `PatientUpdated`, greater than what stands.
        version: Of the row from now on.
        person: Who the patient is, where that was told too.
    """
    if not isinstance(event.data, PatientRegistered):
        raise TypeError(event.data)
    row = _patient_row(event, event.data)
    await fetch(connection, LOCKED_PATIENT, *row, version, *(person or (None, None, None)))


async def run_rows(connection: AsyncConnection, statement: str, rows: Sequence[Row]) -> None:
    """Executes a statement that takes one array of rows.

    Of twenty columns and a hundred rows, the driver encodes one array of rows in half the time of
    twenty arrays, and PostgreSQL reads it in half the time.

    Args:
        connection: Inside a transaction.
        statement: SQL of `upsert_statement`.
        rows: At least one, in the order of the type's columns.
    """
    await fetch(connection, statement, rows)


async def _make_stubs_of(connection: AsyncConnection, events: Sequence[AnyEvent]) -> None:
    # Nearly every event names another patient: the statement takes out the few that come twice.
    patients: list[Row] = []
    practitioners: set[Row] = set()
    services: set[Row] = set()
    for event in events:
        data, clinic_id = event.data, event.clinic_id
        if patient_id := getattr(data, "patient_id", None):
            patients.append((clinic_id, patient_id))
        if practitioner_id := getattr(data, "practitioner_id", None):
            practitioners.add((clinic_id, practitioner_id))
        if service_code := getattr(data, "service_code", None):
            services.add((clinic_id, service_code))
    await make_stubs(connection, patients, practitioners, services)


async def _erase(
    connection: AsyncConnection, events: Sequence[AnyEvent], others: Sequence[Row]
) -> None:
    """Empties the patients' rows and tells those who hold contacts: the tombstone."""
    keys = [(event.clinic_id, event.data.patient_id) for event in events]  # type: ignore[attr-defined]
    # Two statements are about to change patients, each in its own order: one takes the locks for both.
    await run(connection, LOCK_PATIENTS, [*keys, *(row[:2] for row in others)])
    await run(
        connection, ERASE, [(*key, event.time) for key, event in zip(keys, events, strict=True)]
    )
    await forget_identifiers(connection, keys)
    await run(connection, FORGET_CONTACTS, keys)
    await publish(
        connection,
        [
            new_event(
                PatientContactChanged(patient_id=patient_id, contact=None),
                source=SOURCE,
                clinic_id=clinic_id,
                time=event.time,
                sequence=event.sequence,
                cause=event,
                id=uuid5(NAMESPACE_URL, f"tombstone {event.source} {event.id}").hex,
            )
            for (clinic_id, patient_id), event in zip(keys, events, strict=True)
        ],
    )


def _schedule_row(event: AnyEvent, data: AppointmentBooked, precedence: str) -> Row:
    return (
        event.clinic_id,
        data.appointment_id,
        data.patient_id,
        data.practitioner_id,
        data.service_code,
        data.specialty_code,
        data.starts_at,
        data.ends_at,
        data.booked_at or event.time,
        data.channel,
        data.modality,
        no_show_due_at(data.starts_at, data.ends_at),
        precedence,
    )


def _status_row(event: AnyEvent, precedence: str) -> Row:
    data = event.data
    by = reason_code = is_late = marked_by = None
    if isinstance(data, AppointmentCancelled):
        by, reason_code, is_late = data.by, data.reason_code, data.late
    elif isinstance(data, AppointmentNoShow):
        marked_by = data.marked_by
    return (
        event.clinic_id,
        data.appointment_id,  # type: ignore[attr-defined]
        data.patient_id,  # type: ignore[attr-defined]
        STATUS_AFTER[type(data)].value,
        event.time,
        by,
        reason_code,
        is_late,
        marked_by,
        precedence,
    )


def _visit_row(event: AnyEvent, data: VisitCompleted, precedence: str) -> Row:
    referral = data.referral
    return (
        event.clinic_id,
        data.visit_id,
        data.appointment_id,
        data.patient_id,
        data.practitioner_id,
        data.service_code,
        data.specialty_code,
        data.kind,
        data.outcome,
        data.arrived_at,
        data.started_at,
        data.completed_at,
        data.next_visit_due_on,
        referral.reason if referral else None,
        referral.urgency if referral else None,
        data.charged_minor,
        data.cost_minor,
        data.currency,
        precedence,
    )


def _lead_row(event: AnyEvent, data: LeadLost) -> Row:
    who = (event.clinic_id, data.lead_id, data.patient_id)
    return (*who, data.channel, data.reason_code, event.time, event.precedence)


def _clinic_row(event: AnyEvent, data: ClinicRegistered) -> Row:
    return (
        event.clinic_id,
        data.name,
        data.time_zone,
        data.language,
        data.country,
        data.currency,
        data.live_from or event.time,
        event.precedence,
    )


def _patient_row(event: AnyEvent, data: PatientRegistered) -> Row:
    acquisition = data.acquisition
    return (
        event.clinic_id,
        data.patient_id,
        data.birth_year,
        data.sex,
        data.language,
        data.time_zone,
        data.family_id,
        data.payer,
        data.employer_id,
        data.chronic,
        acquisition.channel if acquisition else None,
        acquisition.cost_minor if acquisition else None,
        acquisition.currency if acquisition else None,
        event.precedence,
    )
