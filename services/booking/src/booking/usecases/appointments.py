"""Commands on appointments: what staff and clinic systems do over HTTP."""

from dataclasses import asdict, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from booking.domain import appointment as rules
from booking.domain.appointment import Appointment, CancelledBy, Schedule, Status
from booking.domain.errors import AlreadyExists, InvalidVisit, NotFound, PatientErased
from booking.domain.visit import Findings, Visit, visit_of
from booking.projection import SOURCE
from booking.store import appointments, clinics, patients
from booking.usecases.recording import correlation_of_request, event_of, record, refer
from revisit_events.contracts import (
    AppointmentBooked,
    AppointmentCancelled,
    AppointmentConfirmed,
    AppointmentNoShow,
    AppointmentNoShowReversed,
    AppointmentRescheduled,
    EventData,
    Referral,
    VisitCompleted,
)
from revisit_events.envelope import new_event


async def book_appointment(
    connection: AsyncConnection,
    clinic_id: UUID,
    appointment_id: UUID,
    patient_id: UUID,
    schedule: Schedule,
    now: datetime,
) -> Appointment:
    """Plans a meeting; a patient or practitioner nobody named before becomes a stub.

    Raises:
        AlreadyExists: The id is taken by an appointment that has been planned.
        InvalidSchedule: It would end before it starts.
        PatientErased: The patient is no longer kept.
    """
    await refer(
        connection,
        clinic_id,
        patient_id=patient_id,
        practitioner_id=schedule.practitioner_id,
        service_code=schedule.service_code,
    )
    taken = await appointments.reserve_appointment(
        connection, clinic_id, appointment_id, patient_id
    )
    if taken.status is not None:
        raise AlreadyExists("appointment", appointment_id)
    if await patients.is_erased(connection, clinic_id, patient_id):
        raise PatientErased
    booked = rules.book(appointment_id, patient_id, schedule, now)
    data = AppointmentBooked(**_ids(booked), **_plan(schedule))
    await record(connection, [event_of(clinic_id, booked, data)], now)
    return await _locked(connection, clinic_id, appointment_id)


async def confirm_appointment(
    connection: AsyncConnection, clinic_id: UUID, appointment_id: UUID, now: datetime
) -> Appointment:
    """Records that the patient will come (mission B03).

    Raises:
        NotFound: No such appointment.
        IllegalMove: It is not simply booked.
    """
    before = await _locked(connection, clinic_id, appointment_id)
    after = rules.confirm(before, now)
    await record(connection, [event_of(clinic_id, after, confirmed_data(after))], now)
    return await _locked(connection, clinic_id, appointment_id)


async def reschedule_appointment(
    connection: AsyncConnection,
    clinic_id: UUID,
    appointment_id: UUID,
    starts_at: datetime,
    ends_at: datetime | None,
    practitioner_id: UUID | None,
    now: datetime,
) -> Appointment:
    """Moves an appointment to another time.

    Raises:
        NotFound: No such appointment.
        IllegalMove: It is neither booked nor confirmed.
        InvalidSchedule: It would end before it starts.
    """
    if practitioner_id is not None:
        await refer(connection, clinic_id, practitioner_id=practitioner_id)
    before = await _locked(connection, clinic_id, appointment_id)
    after = rules.reschedule(before, starts_at, ends_at, now, practitioner_id)
    data = AppointmentRescheduled(**_ids(after), **_plan(after.schedule))
    await record(connection, [event_of(clinic_id, after, data)], now)
    return await _locked(connection, clinic_id, appointment_id)


async def cancel_appointment(
    connection: AsyncConnection,
    clinic_id: UUID,
    appointment_id: UUID,
    by: CancelledBy,
    reason_code: str,
    now: datetime,
) -> Appointment:
    """Calls an appointment off, with the reason that staff asked for (mission B04).

    Raises:
        NotFound: No such appointment.
        IllegalMove: The visit has begun, or it is over.
    """
    before = await _locked(connection, clinic_id, appointment_id)
    after = rules.cancel(before, by, reason_code, now)
    await record(connection, [event_of(clinic_id, after, cancelled_data(after))], now)
    return await _locked(connection, clinic_id, appointment_id)


async def record_arrival(
    connection: AsyncConnection,
    clinic_id: UUID,
    appointment_id: UUID,
    noted_by: str,
    now: datetime,
) -> Appointment:
    """Records that the patient is here; takes back a no-show that was marked before.

    Raises:
        NotFound: No such appointment.
        IllegalMove: The patient arrived before, or the appointment is over.
    """
    before = await _locked(connection, clinic_id, appointment_id)
    after = rules.arrive(before, now)
    if before.status is Status.NO_SHOW:
        data = AppointmentNoShowReversed(**_ids(after), marked_by=noted_by)
        await record(connection, [event_of(clinic_id, after, data)], now)
        # The event has moved the row already; the presence comes to stand on it.
        moved = await _locked(connection, clinic_id, appointment_id)
        after = replace(after, version=moved.version + 1, sequence=moved.sequence)
    await appointments.save_presence(connection, clinic_id, after)
    return after


async def record_start(
    connection: AsyncConnection, clinic_id: UUID, appointment_id: UUID, now: datetime
) -> Appointment:
    """Records that the practitioner called the patient in.

    Raises:
        NotFound: No such appointment.
        IllegalMove: The patient has not arrived.
    """
    after = rules.start(await _locked(connection, clinic_id, appointment_id), now)
    await appointments.save_presence(connection, clinic_id, after)
    return after


async def mark_no_show(
    connection: AsyncConnection,
    clinic_id: UUID,
    appointment_id: UUID,
    marked_by: str,
    reason_code: str | None,
    now: datetime,
) -> Appointment:
    """Records that the patient did not come, or why, once somebody has reached them (mission B05).

    Raises:
        NotFound: No such appointment.
        IllegalMove: The patient came, or it was cancelled.
        NotStartedYet: It is too early to say.
    """
    before = await _locked(connection, clinic_id, appointment_id)
    if before.status is not Status.NO_SHOW or reason_code is None:
        after = rules.miss(before, marked_by, now)
        await record(connection, [event_of(clinic_id, after, missed_data(after))], now)
    if reason_code is not None:
        await appointments.save_no_show_reason(connection, clinic_id, appointment_id, reason_code)
    return await _locked(connection, clinic_id, appointment_id)


async def complete_appointment(
    connection: AsyncConnection,
    clinic_id: UUID,
    appointment_id: UUID,
    visit_id: UUID,
    findings: Findings,
    now: datetime,
) -> tuple[Appointment, Visit]:
    """Ends the visit and records what it was (missions B07, B18, B19).

    Raises:
        NotFound: No such appointment.
        IllegalMove: It was never started, or it is over.
        InvalidVisit: Outcome and referral contradict each other.
        AlreadyExists: The id of the visit is taken.
    """
    before = await _locked(connection, clinic_id, appointment_id)
    after = rules.complete(before, now)
    if await appointments.visit_exists(connection, clinic_id, visit_id):
        raise AlreadyExists("visit", visit_id)
    findings = await _with_currency(connection, clinic_id, findings)
    visit = visit_of(visit_id, after, findings, after.status_at or now)
    event = new_event(
        visit_data(visit),
        source=SOURCE,
        clinic_id=clinic_id,
        time=visit.completed_at,
        # The event moves the appointment too, and must sort after its last.
        sequence=after.own_sequence,
        correlation_id=correlation_of_request(),
    )
    await record(connection, [event], now)
    return await _locked(connection, clinic_id, appointment_id), visit


def confirmed_data(after: Appointment) -> EventData:
    """`appointment.confirmed` of a confirmed appointment, with its plan."""
    return AppointmentConfirmed(**_ids(after), **_plan(after.schedule))


def cancelled_data(after: Appointment) -> EventData:
    """`appointment.cancelled` of a cancelled appointment."""
    if after.cancellation is None:
        raise ValueError(after.status)
    cancellation = after.cancellation
    return AppointmentCancelled(
        **_ids(after),
        by=cancellation.by.value,
        reason_code=cancellation.reason_code,
        late=cancellation.is_late,
    )


def missed_data(after: Appointment) -> EventData:
    """`appointment.no_show` of a missed appointment, with the rule's version."""
    return AppointmentNoShow(
        **_ids(after),
        marked_by=after.marked_by or rules.SYSTEM,
        grace_minutes=int(rules.NO_SHOW_GRACE.total_seconds() // 60),
        definition_version=rules.NO_SHOW_DEFINITION,
    )


def visit_data(visit: Visit) -> VisitCompleted:
    """`visit.completed` of a visit."""
    referral = visit.referral
    return VisitCompleted(
        visit_id=visit.visit_id,
        appointment_id=visit.appointment_id,
        patient_id=visit.patient_id,
        practitioner_id=visit.practitioner_id,
        service_code=visit.service_code,
        specialty_code=visit.specialty_code,
        kind=visit.kind.value,
        outcome=visit.outcome.value,
        arrived_at=visit.arrived_at,
        started_at=visit.started_at,
        completed_at=visit.completed_at,
        next_visit_due_on=visit.next_visit_due_on,
        referral=Referral(**asdict(referral)) if referral else None,
        **asdict(visit.charge),
    )


async def _locked(
    connection: AsyncConnection, clinic_id: UUID, appointment_id: UUID
) -> Appointment:
    found = await appointments.appointment(connection, clinic_id, appointment_id, for_update=True)
    if found is None:
        raise NotFound("appointment")
    return found


async def _with_currency(
    connection: AsyncConnection, clinic_id: UUID, findings: Findings
) -> Findings:
    """Money without a currency is in the clinic's; without a clinic nobody can say what it is."""
    charge = findings.charge
    if charge.currency or (charge.charged_minor is None and charge.cost_minor is None):
        return findings
    clinic = await clinics.clinic(connection, clinic_id)
    if clinic is None:
        raise InvalidVisit("Money needs a currency: the clinic is not registered.")
    return replace(findings, charge=replace(charge, currency=clinic.currency))


def _ids(appointment: Appointment) -> dict[str, Any]:
    return {
        "appointment_id": appointment.appointment_id,
        "patient_id": appointment.patient_id,
    }


def _plan(schedule: Schedule | None) -> dict[str, Any]:
    plan = asdict(schedule) if schedule else {}
    return {name: value for name, value in plan.items() if value is not None}
