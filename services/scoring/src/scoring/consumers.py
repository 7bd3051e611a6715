"""The events that scoring consumes: each becomes a fact, set-based, whatever the order.

A change of a fact puts the patient into the queue of those to be scored; the scoring itself is due work
(`rescoring`), so that a flood of events is taken in first.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_events import contracts as c
from revisit_events.consumer import Handler
from revisit_events.contracts import EventData
from revisit_events.envelope import AnyEvent, Event
from revisit_events.revocations import on_token_revoked
from scoring import facts
from scoring.domain.statistics import verdict_of


async def on_clinic_registered(
    connection: AsyncConnection, events: Sequence[Event[c.ClinicRegistered]], _: datetime
) -> None:
    """Keeps zone and currency; from a day later on the clinic's rhythms are found."""
    await connection.exec_driver_sql(
        facts.CLINIC,
        (
            [e.clinic_id for e in events],
            [_known_zone(e.data.time_zone) for e in events],
            [e.data.currency for e in events],
            [e.time for e in events],
            [e.precedence for e in events],
        ),
    )


async def on_patient_described(
    connection: AsyncConnection, events: Sequence[Event[c.PatientRegistered]], _: datetime
) -> None:
    """Keeps what the segments need."""
    await connection.exec_driver_sql(
        facts.PATIENT,
        (
            [e.clinic_id for e in events],
            [e.data.patient_id for e in events],
            [e.data.birth_year for e in events],
            [e.data.sex for e in events],
            [e.data.family_id for e in events],
            [e.data.payer for e in events],
            [e.data.employer_id for e in events],
            [bool(e.data.chronic) for e in events],
            [e.precedence for e in events],
        ),
    )


async def on_patient_erased(
    connection: AsyncConnection, events: Sequence[Event[c.PatientErased]], _: datetime
) -> None:
    """Forgets who it was; the visits stay as anonymous facts, the score goes."""
    await connection.exec_driver_sql(
        facts.ERASE,
        (
            [e.clinic_id for e in events],
            [e.data.patient_id for e in events],
            [e.time for e in events],
        ),
    )


async def on_visit_completed(
    connection: AsyncConnection, events: Sequence[Event[c.VisitCompleted]], _: datetime
) -> None:
    """Keeps the visit; the hottest handler: one statement."""
    data = [e.data for e in events]
    await connection.exec_driver_sql(
        facts.VISIT,
        (
            [e.clinic_id for e in events],
            [d.visit_id for d in data],
            [d.patient_id for d in data],
            [d.practitioner_id for d in data],
            [d.service_code for d in data],
            [d.kind for d in data],
            [d.outcome for d in data],
            [d.arrived_at for d in data],
            [d.started_at for d in data],
            [d.completed_at for d in data],
            [d.charged_minor for d in data],
            [d.currency for d in data],
            [e.precedence for e in events],
        ),
    )
    attended = [e for e in events if e.data.appointment_id is not None]
    await _statuses(connection, attended, "completed")


async def on_appointment_scheduled(
    connection: AsyncConnection, events: Sequence[Event[Any]], _: datetime
) -> None:
    """Keeps when the appointment is; it is booked (again) unless a later event says otherwise."""
    data = [e.data for e in events]
    await connection.exec_driver_sql(
        facts.SCHEDULE,
        (
            [e.clinic_id for e in events],
            [d.appointment_id for d in data],
            [d.patient_id for d in data],
            [d.practitioner_id for d in data],
            [d.service_code for d in data],
            [d.starts_at for d in data],
            [e.precedence for e in events],
        ),
    )
    await _statuses(connection, events, "booked")


def _status_handler(status: str) -> Handler[Any]:
    async def on_status(
        connection: AsyncConnection, events: Sequence[Event[Any]], _: datetime
    ) -> None:
        await _statuses(connection, events, status)

    return on_status


async def _statuses(connection: AsyncConnection, events: Sequence[Event[Any]], status: str) -> None:
    if not events:
        return
    await connection.exec_driver_sql(
        facts.STATUS,
        (
            [e.clinic_id for e in events],
            [e.data.appointment_id for e in events],
            [e.data.patient_id for e in events],
            [status] * len(events),
            [e.time for e in events],
            [e.precedence for e in events],
        ),
    )


async def on_survey_answered(
    connection: AsyncConnection, events: Sequence[Event[c.SurveyAnswered]], _: datetime
) -> None:
    """Keeps the answer and what it counts as."""
    data = [e.data for e in events]
    await connection.exec_driver_sql(
        facts.ANSWER,
        (
            [e.clinic_id for e in events],
            [d.answer_id for d in data],
            [d.patient_id for d in data],
            [d.practitioner_id for d in data],
            [d.kind for d in data],
            [d.score for d in data],
            [verdict_of(d.kind, d.score, d.scale_min, d.scale_max) for d in data],
            [e.time for e in events],
            [e.precedence for e in events],
        ),
    )


def _interaction_handler(
    code: Callable[[Any], str | None], subject: Callable[[AnyEvent], str] = attrgetter("subject")
) -> Handler[Any]:
    """Gives a handler that keeps what happened, to whom and when.

    Args:
        code: The one detail of the data that is kept.
        subject: What it is about; of several events the newest stands.
    """

    async def on_interaction(
        connection: AsyncConnection, events: Sequence[AnyEvent], _: datetime
    ) -> None:
        await connection.exec_driver_sql(
            facts.INTERACTION,
            (
                [e.clinic_id for e in events],
                [e.topic for e in events],
                [subject(e) for e in events],
                [getattr(e.data, "patient_id", None) for e in events],
                [code(e.data) for e in events],
                [e.time for e in events],
                [e.precedence for e in events],
            ),
        )

    return on_interaction


def _consent_subject(event: Event[Any]) -> str:
    return f"{event.subject} {event.data.purpose} {event.data.channel}"


def _known_zone(name: str) -> str:
    """The zone, or UTC where this machine does not know it: a clinic's typing error stops nobody."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return "UTC"
    return name


HANDLERS: Mapping[type[EventData], Handler[Any]] = {
    c.ClinicRegistered: on_clinic_registered,
    c.PatientRegistered: on_patient_described,
    c.PatientUpdated: on_patient_described,
    c.PatientErased: on_patient_erased,
    c.AppointmentBooked: on_appointment_scheduled,
    c.AppointmentRescheduled: on_appointment_scheduled,
    c.AppointmentConfirmed: _status_handler("confirmed"),
    c.AppointmentCancelled: _status_handler("cancelled"),
    c.AppointmentNoShow: _status_handler("no_show"),
    c.AppointmentNoShowReversed: _status_handler("arrived"),
    c.VisitCompleted: on_visit_completed,
    c.SurveyAnswered: on_survey_answered,
    c.LeadLost: _interaction_handler(attrgetter("reason_code")),
    c.LinkIssued: _interaction_handler(attrgetter("purpose")),
    c.JourneyEnrolled: _interaction_handler(attrgetter("journey")),
    c.MessageSent: _interaction_handler(attrgetter("journey")),
    c.MessageDelivered: _interaction_handler(attrgetter("journey")),
    c.MessageFailed: _interaction_handler(attrgetter("journey")),
    c.TaskOpened: _interaction_handler(attrgetter("reason")),
    c.TaskClosed: _interaction_handler(attrgetter("outcome")),
    c.ConsentChanged: _interaction_handler(attrgetter("state"), _consent_subject),
    c.ReviewPosted: _interaction_handler(attrgetter("platform")),
    c.ComplaintOpened: _interaction_handler(attrgetter("cause_code")),
    c.ComplaintResolved: _interaction_handler(attrgetter("cause_code")),
    c.ActionVerified: _interaction_handler(attrgetter("verdict")),
    c.TokenRevoked: on_token_revoked,
}
