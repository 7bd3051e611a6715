"""`/v1/appointments` and the commands under it."""

from collections.abc import Awaitable, Callable
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Response
from pydantic import TypeAdapter
from sqlalchemy.ext.asyncio import AsyncConnection

from booking.api.answers import appointment_answers
from booking.api.calls import Call, answer_of, call_with
from booking.api.fields import OwnId
from booking.api.models import (
    AppointmentAnswer,
    AppointmentBody,
    AppointmentPage,
    CancellationBody,
    CompletionAnswer,
    CompletionBody,
    NoShowBody,
    ReschedulingBody,
)
from booking.domain.appointment import Appointment, Schedule
from booking.domain.errors import NotFound
from booking.domain.visit import Charge, Findings, Referral
from booking.store import appointments, clinics
from booking.usecases import appointments as commands
from revisit_chassis.etag import check_if_match
from revisit_chassis.http import ClinicConnection
from revisit_chassis.pages import Cursor, Limit, encode_cursor, position_of

router = APIRouter(prefix="/v1/appointments")
move_requests = APIRouter(prefix="/v1/move-requests")

_ID = TypeAdapter(UUID)

Reading = Annotated[Call, Depends(call_with("appointments:read"))]
Writing = Annotated[Call, Depends(call_with("appointments:write"))]


@router.post("", status_code=201, response_model=AppointmentAnswer)
async def book_appointment(body: AppointmentBody, call: Writing) -> Response:
    """Plans a meeting."""
    given = body.appointment_id
    appointment_id = uuid4() if given is None else call.names.id_of("appointment", given)
    patient_id = call.names.id_of("patient", body.patient_id)
    schedule = Schedule(
        starts_at=body.starts_at,
        ends_at=body.ends_at,
        booked_at=body.booked_at or call.now,
        practitioner_id=call.names.optional_id_of("practitioner", body.practitioner_id),
        service_code=body.service_code,
        specialty_code=body.specialty_code,
        channel=body.channel,
        modality=body.modality,
    )

    async def work(connection: AsyncConnection) -> Response:
        booked = await commands.book_appointment(
            connection, call.clinic_id, appointment_id, patient_id, schedule, call.now
        )
        return await _answer(connection, call, booked, status=201)

    return await call.run("appointment.book", "appointment", appointment_id, work)


@move_requests.get("", response_model=AppointmentPage)
async def list_move_requests(
    call: Reading, connection: ClinicConnection, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """Appointments whose patients asked to move them: whom to call."""
    after = None if cursor is None else position_of(cursor, 1, _ID)
    found = await appointments.move_requests(connection, call.clinic_id, after, limit + 1)
    items = await appointment_answers(connection, call.clinic_id, found[:limit])
    following = encode_cursor([found[limit - 1].appointment_id]) if len(found) > limit else None
    return answer_of(AppointmentPage(items=items, next=following))


@router.get("/{appointment_id}", response_model=AppointmentAnswer)
async def get_appointment(
    appointment_id: OwnId, call: Reading, connection: ClinicConnection
) -> Response:
    """One appointment."""
    canonical = call.names.id_of("appointment", appointment_id)
    found = await appointments.appointment(connection, call.clinic_id, canonical)
    if found is None:
        raise NotFound("appointment")
    return await _answer(connection, call, found)


@router.post("/{appointment_id}/confirmation", response_model=AppointmentAnswer)
async def confirm_appointment(appointment_id: OwnId, call: Writing) -> Response:
    """The patient said that they will come."""
    return await _move(
        call,
        appointment_id,
        "appointment.confirm",
        lambda connection, canonical: commands.confirm_appointment(
            connection, call.clinic_id, canonical, call.now
        ),
    )


@router.post("/{appointment_id}/rescheduling", response_model=AppointmentAnswer)
async def reschedule_appointment(
    appointment_id: OwnId, body: ReschedulingBody, call: Writing
) -> Response:
    """Another time; to be confirmed anew."""
    practitioner_id = call.names.optional_id_of("practitioner", body.practitioner_id)
    return await _move(
        call,
        appointment_id,
        "appointment.reschedule",
        lambda connection, canonical: commands.reschedule_appointment(
            connection,
            call.clinic_id,
            canonical,
            body.starts_at,
            body.ends_at,
            practitioner_id,
            call.now,
        ),
    )


@router.post("/{appointment_id}/cancellation", response_model=AppointmentAnswer)
async def cancel_appointment(
    appointment_id: OwnId, body: CancellationBody, call: Writing
) -> Response:
    """The appointment will not take place."""
    return await _move(
        call,
        appointment_id,
        "appointment.cancel",
        lambda connection, canonical: commands.cancel_appointment(
            connection, call.clinic_id, canonical, body.by, body.reason_code, call.now
        ),
    )


@router.post("/{appointment_id}/arrival", response_model=AppointmentAnswer)
async def record_arrival(appointment_id: OwnId, call: Writing) -> Response:
    """The patient is here; undoes a no-show."""
    return await _move(
        call,
        appointment_id,
        "appointment.arrive",
        lambda connection, canonical: commands.record_arrival(
            connection, call.clinic_id, canonical, _marker(call), call.now
        ),
    )


@router.post("/{appointment_id}/start", response_model=AppointmentAnswer)
async def record_start(appointment_id: OwnId, call: Writing) -> Response:
    """The practitioner called the patient in."""
    return await _move(
        call,
        appointment_id,
        "appointment.start",
        lambda connection, canonical: commands.record_start(
            connection, call.clinic_id, canonical, call.now
        ),
    )


@router.post("/{appointment_id}/no-show", response_model=AppointmentAnswer)
async def mark_no_show(
    appointment_id: OwnId, call: Writing, body: NoShowBody | None = None
) -> Response:
    """The patient did not come; sent again with a reason once somebody has reached them."""
    return await _move(
        call,
        appointment_id,
        "appointment.no_show",
        lambda connection, canonical: commands.mark_no_show(
            connection,
            call.clinic_id,
            canonical,
            _marker(call),
            body.reason_code if body else None,
            call.now,
        ),
    )


@router.post("/{appointment_id}/completion", response_model=CompletionAnswer)
async def complete_appointment(
    appointment_id: OwnId, body: CompletionBody, call: Writing
) -> Response:
    """The visit took place: what it was, how it ended, what it brought."""
    canonical = call.names.id_of("appointment", appointment_id)
    visit_id = uuid4() if body.visit_id is None else call.names.id_of("visit", body.visit_id)
    findings = Findings(
        kind=body.kind,
        outcome=body.outcome,
        referral=Referral(body.referral.reason, body.referral.urgency) if body.referral else None,
        next_visit_due_on=body.next_visit_due_on,
        charge=Charge(body.charged_minor, body.cost_minor, body.currency),
    )

    async def work(connection: AsyncConnection) -> Response:
        await _check_version(connection, call, canonical)
        completed, visit = await commands.complete_appointment(
            connection, call.clinic_id, canonical, visit_id, findings, call.now
        )
        (shown,) = await appointment_answers(connection, call.clinic_id, [completed])
        named = await clinics.identifiers(connection, call.clinic_id, [("visit", visit_id)])
        answer = CompletionAnswer(
            visit_id=visit_id,
            visit_identifier=named.get(("visit", visit_id)),
            completed_at=visit.completed_at,
            appointment=shown,
        )
        return answer_of(answer, version=completed.version)

    return await call.run("appointment.complete", "appointment", canonical, work)


async def _move(
    call: Call,
    appointment_id: str,
    action: str,
    command: Callable[[AsyncConnection, UUID], Awaitable[Appointment]],
) -> Response:
    canonical = call.names.id_of("appointment", appointment_id)

    async def work(connection: AsyncConnection) -> Response:
        await _check_version(connection, call, canonical)
        return await _answer(connection, call, await command(connection, canonical))

    return await call.run(action, "appointment", canonical, work)


async def _check_version(connection: AsyncConnection, call: Call, canonical: UUID) -> None:
    if call.if_match is None:
        return
    before = await appointments.appointment(connection, call.clinic_id, canonical, for_update=True)
    check_if_match(call.if_match, before.version if before else None)


async def _answer(
    connection: AsyncConnection, call: Call, shown: Appointment, *, status: int = 200
) -> Response:
    (answer,) = await appointment_answers(connection, call.clinic_id, [shown])
    return answer_of(answer, status=status, version=shown.version)


def _marker(call: Call) -> str:
    """Who says that a patient came or did not: the caller's role."""
    return call.role or "staff"
