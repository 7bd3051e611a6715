"""Appointments as answers show them: with the clinic's own names of everything in them."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from booking.api.models import AppointmentAnswer, CancellationAnswer
from booking.domain.appointment import Appointment
from booking.store import clinics

Names = dict[tuple[str, UUID], str]


async def appointment_answers(
    connection: AsyncConnection, clinic_id: UUID, shown: Sequence[Appointment]
) -> list[AppointmentAnswer]:
    """Appointments for a caller of their clinic.

    Args:
        connection: Inside a transaction of the clinic.
        clinic_id: The clinic.
        shown: The appointments.
    """
    ids: set[tuple[str, UUID]] = set()
    for each in shown:
        ids |= {("appointment", each.appointment_id), ("patient", each.patient_id)}
        if each.schedule and each.schedule.practitioner_id:
            ids.add(("practitioner", each.schedule.practitioner_id))
    names = await clinics.identifiers(connection, clinic_id, sorted(ids))
    return [_answer(each, names) for each in shown]


def _answer(shown: Appointment, names: Names) -> AppointmentAnswer:
    schedule, cancellation = shown.schedule, shown.cancellation
    practitioner_id = schedule.practitioner_id if schedule else None
    return AppointmentAnswer(
        appointment_id=shown.appointment_id,
        appointment_identifier=names.get(("appointment", shown.appointment_id)),
        patient_id=shown.patient_id,
        patient_identifier=names.get(("patient", shown.patient_id)),
        practitioner_id=practitioner_id,
        practitioner_identifier=names.get(("practitioner", practitioner_id))
        if practitioner_id
        else None,
        status=shown.status,
        service_code=schedule.service_code if schedule else None,
        specialty_code=schedule.specialty_code if schedule else None,
        starts_at=schedule.starts_at if schedule else None,
        ends_at=schedule.ends_at if schedule else None,
        booked_at=schedule.booked_at if schedule else None,
        channel=schedule.channel if schedule else None,
        modality=schedule.modality if schedule else None,
        arrived_at=shown.arrived_at,
        started_at=shown.started_at,
        cancellation=CancellationAnswer(
            by=cancellation.by,
            reason_code=cancellation.reason_code or None,
            late=cancellation.is_late,
        )
        if cancellation
        else None,
        no_show_marked_by=shown.marked_by,
        no_show_reason_code=shown.no_show_reason_code,
        move_requested_at=shown.move_requested_at,
    )
