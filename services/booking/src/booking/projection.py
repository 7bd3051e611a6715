"""What reported facts make of booking's rows: `apply`, for events of any type, in any order.

Called by the intake of `POST /v1/events` and by every use case, so there is one way to state. It is the
hottest path of the product (every visit of every clinic): one statement a table, and one for all where
visits come alone; arrays in, nothing read into Python. Of several events about one row the statement
itself takes the one that stands.

Locks come in one order, so that two batches wait for each other and do not deadlock: identifiers, stubs,
clinics, patients, appointments, visits, lost leads, and within a table by key. Commands keep to it. One
case is left: patients whom nobody named before are locked with their identifiers, so two batches that load
the same new patients at once may meet in a circle; PostgreSQL ends it, and the intake tries again.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy.ext.asyncio import AsyncConnection

from booking.domain.appointment import Status, no_show_due_at
from booking.store.named import forget_identifiers, make_stubs
from booking.store.reported import (
    CLINICS,
    ERASE,
    FORGET_CONTACTS,
    LEADS,
    LOCK_PATIENTS,
    LOCKED_PATIENT,
    NEW_VISITS_ALONE,
    PATIENTS,
    SCHEDULES,
    STATUSES,
    VISITS,
    VISITS_ALONE,
)
from booking.store.rows import run
from revisit_chassis.db import fetch, since_epoch
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
from revisit_events.envelope import AnyEvent, Event, new_event
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


async def apply(
    connection: AsyncConnection,
    events: Sequence[AnyEvent],
    now: datetime,  # noqa: ARG001
    *,
    are_new: bool = False,
) -> None:
    """Brings the rows to what the events report; the same for any order and repetition.

    Args:
        connection: Inside the transaction of the request.
        events: Events of types that booking owns.
        now: Moment of the request; facts carry their own times, so nothing depends on it.
        are_new: Whether to guess, where they are visits alone, that none of these was reported before.

    Raises:
        asyncpg.UniqueViolationError: That was wrong, and the transaction has failed.
    """
    if all(issubclass(kind, VisitCompleted) for kind in {type(event.data) for event in events}):
        visits_alone = cast("Sequence[Event[VisitCompleted]]", events)
        await _apply_visits(connection, visits_alone, are_new=are_new)
    else:
        await _apply_mixed(connection, events)


async def _apply_mixed(connection: AsyncConnection, events: Sequence[AnyEvent]) -> None:  # noqa: C901
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


async def _apply_visits(
    connection: AsyncConnection, events: Sequence[Event[VisitCompleted]], *, are_new: bool
) -> None:
    """Does what `apply` does, for visits alone, which most of what is reported are: in one statement."""
    visits: list[Row] = []
    statuses: list[Row] = []
    for event in events:
        precedence = event.precedence
        visits.append(_visit_row(event, event.data, precedence))
        if event.data.appointment_id is not None:
            statuses.append(_status_row(event, precedence))
    await fetch(connection, NEW_VISITS_ALONE if are_new else VISITS_ALONE, visits, statuses)


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
        since_epoch(data.starts_at),
        since_epoch(data.ends_at),
        since_epoch(data.booked_at or event.time),
        data.channel,
        data.modality,
        since_epoch(no_show_due_at(data.starts_at, data.ends_at)),
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
        since_epoch(event.time),
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
        since_epoch(data.arrived_at),
        since_epoch(data.started_at),
        since_epoch(data.completed_at),
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
    return (*who, data.channel, data.reason_code, since_epoch(event.time), event.precedence)


def _clinic_row(event: AnyEvent, data: ClinicRegistered) -> Row:
    return (
        event.clinic_id,
        data.name,
        data.time_zone,
        data.language,
        data.country,
        data.currency,
        since_epoch(data.live_from or event.time),
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
