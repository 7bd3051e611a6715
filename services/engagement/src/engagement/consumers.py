"""Engagement's inputs: one function an event, and the table at the end.

A handler writes the projection, brings planned messages into line with it, and asks for a check of the
2Z rule. It takes locks in one order: patient, messages, 2Z row, tasks.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.journeys import usecases as journeys
from engagement.links.store import forget_links
from engagement.projections import store
from engagement.projections.store import Key, Touched
from engagement.tasks.domain import NewTask, Reason
from engagement.tasks.usecases import open_tasks
from engagement.two_z import usecases as two_z
from revisit_events import contracts as c
from revisit_events.contracts import EventData
from revisit_events.envelope import Event
from revisit_events.handlers import Guessing, Handler
from revisit_events.revocations import on_token_revoked

CALL_AFTER_LOW_SCORE = timedelta(hours=4)


async def on_clinic_registered(
    connection: AsyncConnection, events: Sequence[Event[c.ClinicRegistered]], now: datetime
) -> None:
    """Keeps zone, language and start; what waited for them is planned."""
    await journeys.await_planners(connection, {event.clinic_id for event in events})
    changed = await store.save_clinics(connection, events)
    if changed:
        await journeys.plan_clinics(connection, changed, now)
        await two_z.touch_clinics(connection, changed, now)


async def on_patient_described(
    connection: AsyncConnection, events: Sequence[Event[c.PatientRegistered]], now: datetime
) -> None:
    """Keeps language and zone; a new zone moves what is planned."""
    await journeys.plan_patients(connection, await store.save_patients(connection, events), now)


async def on_patient_contact_changed(
    connection: AsyncConnection,
    events: Sequence[Event[c.PatientContactChanged]],
    now: datetime,  # noqa: ARG001
) -> None:
    """Keeps the encrypted contact block as it came."""
    await store.save_contacts(connection, events)


async def on_patient_erased(
    connection: AsyncConnection, events: Sequence[Event[c.PatientErased]], now: datetime
) -> None:
    """Removes contact, texts and links, drops what was to be sent, ends open tasks."""
    erased_at = await store.erase_patients(connection, events)
    await journeys.drop_for_erased(connection, erased_at)
    await forget_links(connection, list(erased_at))
    await two_z.forget_patients(connection, list(erased_at), now)


async def on_appointment_scheduled(
    connection: AsyncConnection, events: Sequence[Event[Any]], now: datetime
) -> None:
    """Booked or moved: the reminder follows."""
    await _appointments_changed(connection, await store.save_schedules(connection, events), now)


def _status_handler(status: str) -> Handler[Any]:
    async def on_status(
        connection: AsyncConnection, events: Sequence[Event[Any]], now: datetime
    ) -> None:
        touched = await store.save_statuses(connection, store.status_rows(events, status))
        await _appointments_changed(connection, touched, now)

    return on_status


async def on_visit_completed(
    connection: AsyncConnection,
    events: Sequence[Event[c.VisitCompleted]],
    now: datetime,
    *,
    are_new: bool = False,
) -> None:
    """Plans the follow-up and asks for a check at the visit's deadline."""
    saved = await store.save_visits(connection, events, are_new=are_new)
    attended = [e for e in events if e.data.appointment_id is not None]
    touched = await store.save_statuses(connection, store.status_rows(attended, "completed"))
    await journeys.plan_visits(connection, saved, now, are_new=are_new)
    await _appointments_changed(connection, touched, now)
    standing = [one.event for one in saved]
    await two_z.touch_visits(
        connection,
        [(e.clinic_id, e.data.patient_id, e.data.completed_at) for e in standing],
        {one.event.clinic_id: one.place.time_zone for one in saved if one.place},
    )
    taken = {(one.event.clinic_id, former) for one in saved if (former := one.former_patient_id)}
    await two_z.touch(connection, taken, now)


async def on_complaint_opened(
    connection: AsyncConnection, events: Sequence[Event[c.ComplaintOpened]], now: datetime
) -> None:
    """Somebody is to talk to a patient who was unhappy."""
    tasks = [
        NewTask(
            clinic_id=e.clinic_id,
            patient_id=e.data.patient_id,
            reason=Reason.LOW_SCORE,
            subject_id=e.data.complaint_id,
            due_at=e.time + CALL_AFTER_LOW_SCORE,
            opened_at=e.time,
            not_before=e.time,
        )
        for e in events
        if e.data.patient_id is not None
    ]
    await open_tasks(connection, tasks, now)


async def on_noted(
    connection: AsyncConnection,
    events: Sequence[Event[Any]],
    now: datetime,
) -> None:
    """Keeps the event in the event log, where journeys to come will find it; nothing follows yet."""


async def _appointments_changed(
    connection: AsyncConnection, touched: Iterable[Touched], now: datetime
) -> None:
    changed = set(touched)
    if not changed:
        return
    keys = sorted({Key(one.clinic_id, one.appointment_id) for one in changed})
    await journeys.plan_appointments(connection, keys, now)
    await two_z.touch(connection, {(one.clinic_id, one.patient_id) for one in changed}, now)


HANDLERS: Mapping[type[EventData], Handler[Any]] = {
    c.ClinicRegistered: on_clinic_registered,
    c.PatientRegistered: on_patient_described,
    c.PatientUpdated: on_patient_described,
    c.PatientContactChanged: on_patient_contact_changed,
    c.PatientErased: on_patient_erased,
    c.AppointmentBooked: on_appointment_scheduled,
    c.AppointmentRescheduled: on_appointment_scheduled,
    c.AppointmentConfirmed: _status_handler("confirmed"),
    c.AppointmentCancelled: _status_handler("cancelled"),
    c.AppointmentNoShow: _status_handler("no_show"),
    c.AppointmentNoShowReversed: _status_handler("arrived"),
    c.VisitCompleted: Guessing(on_visit_completed, partial(on_visit_completed, are_new=True)),
    c.ComplaintOpened: on_complaint_opened,
    c.ComplaintResolved: on_noted,
    c.SurveyAnswered: on_noted,
    c.ReviewPosted: on_noted,
    c.LeadLost: on_noted,
    c.SlotFreed: on_noted,
    c.PatientSegmentChanged: on_noted,
    c.PatientChurnRiskChanged: on_noted,
    c.AppointmentNoShowRiskScored: on_noted,
    c.TokenRevoked: on_token_revoked,
}
