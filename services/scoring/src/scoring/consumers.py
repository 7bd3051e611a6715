"""The events that scoring consumes: each becomes a fact, set-based, whatever the order.

A change of a fact puts the patient into the queue of those to be scored; the scoring itself is due work
(`rescoring`), so that a flood of events is taken in first.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_chassis.db import fetch
from revisit_events import contracts as c
from revisit_events.contracts import EventData
from revisit_events.envelope import AnyEvent, Event
from revisit_events.handlers import Handler
from revisit_events.rebuild import Projections
from revisit_events.revocations import on_token_revoked
from scoring import facts, tables


async def on_clinic_registered(
    connection: AsyncConnection, events: Sequence[Event[c.ClinicRegistered]], _: datetime
) -> None:
    """Keeps zone and currency."""
    await fetch(
        connection,
        facts.CLINIC,
        [e.clinic_id for e in events],
        [e.data.time_zone for e in events],
        [e.data.currency for e in events],
        [e.precedence for e in events],
    )


async def on_patient_described(
    connection: AsyncConnection, events: Sequence[Event[c.PatientRegistered]], _: datetime
) -> None:
    """Keeps what the segments need."""
    await fetch(
        connection,
        facts.PATIENT,
        [e.clinic_id for e in events],
        [e.data.patient_id for e in events],
        [e.data.birth_year for e in events],
        [e.data.family_id for e in events],
        [e.data.payer for e in events],
        [e.data.employer_id for e in events],
        [bool(e.data.chronic) for e in events],
        [e.precedence for e in events],
    )


async def on_patient_erased(
    connection: AsyncConnection, events: Sequence[Event[c.PatientErased]], _: datetime
) -> None:
    """Forgets who it was; the visits stay as anonymous facts, the score goes at once."""
    pairs = ([e.clinic_id for e in events], [e.data.patient_id for e in events])
    await fetch(connection, facts.ERASE, *pairs, [e.time for e in events])
    await fetch(connection, facts.FORGET_SCORE, *pairs)


async def on_visit_completed(
    connection: AsyncConnection, events: Sequence[Event[c.VisitCompleted]], _: datetime
) -> None:
    """Keeps the visit; the hottest handler: one statement.

    An appointment that a visit names was kept, whatever is said of it before or later.
    """
    rows = [
        (
            event.clinic_id,
            (data := event.data).visit_id,
            data.patient_id,
            data.appointment_id,
            data.practitioner_id,
            data.service_code,
            data.kind,
            data.outcome,
            data.arrived_at,
            data.started_at,
            data.completed_at,
            data.charged_minor,
            data.currency,
            event.precedence,
        )
        for event in events
    ]
    # One array of rows: the driver encodes it in half the time of fourteen arrays.
    await fetch(connection, facts.VISIT, rows)


async def on_appointment_scheduled(
    connection: AsyncConnection, events: Sequence[Event[Any]], _: datetime
) -> None:
    """Keeps when the appointment is; it is booked (again) unless a later event says otherwise."""
    data = [e.data for e in events]
    await fetch(
        connection,
        facts.SCHEDULE,
        [e.clinic_id for e in events],
        [d.appointment_id for d in data],
        [d.patient_id for d in data],
        [d.practitioner_id for d in data],
        [d.service_code for d in data],
        [d.starts_at for d in data],
        [e.precedence for e in events],
    )
    await _statuses(connection, events, "booked")


def _status_handler(status: str) -> Handler[Any]:
    async def on_status(
        connection: AsyncConnection, events: Sequence[Event[Any]], _: datetime
    ) -> None:
        await _statuses(connection, events, status)

    return on_status


async def _statuses(connection: AsyncConnection, events: Sequence[Event[Any]], status: str) -> None:
    await fetch(
        connection,
        facts.STATUS,
        [e.clinic_id for e in events],
        [e.data.appointment_id for e in events],
        [e.data.patient_id for e in events],
        [status] * len(events),
        [e.time for e in events],
        [e.precedence for e in events],
    )


async def on_survey_answered(
    connection: AsyncConnection, events: Sequence[Event[c.SurveyAnswered]], _: datetime
) -> None:
    """Keeps the answer."""
    await fetch(
        connection,
        facts.ANSWER,
        [e.clinic_id for e in events],
        [e.data.answer_id for e in events],
        [e.data.patient_id for e in events],
        [e.data.visit_id for e in events],
        [e.data.practitioner_id for e in events],
        [e.data.kind for e in events],
        [_on_usual_scale(e.data) for e in events],
        [e.time for e in events],
        [e.precedence for e in events],
    )


def _on_usual_scale(answer: c.SurveyAnswered) -> float:
    """Gives a score on the scale its figure is defined on: CSAT 1 to 5, NPS 0 to 10, others as given."""
    least, most = {"csat": (1.0, 5.0), "nps": (0.0, 10.0)}.get(
        answer.kind, (float(answer.scale_min), float(answer.scale_max))
    )
    share = (answer.score - answer.scale_min) / (answer.scale_max - answer.scale_min)
    return least + share * (most - least)


async def on_consent_changed(
    connection: AsyncConnection, events: Sequence[Event[c.ConsentChanged]], _: datetime
) -> None:
    """Keeps the newest state of each purpose and channel."""
    await fetch(
        connection,
        facts.INTERACTION,
        [e.clinic_id for e in events],
        [e.topic for e in events],
        [f"{e.subject}:{e.data.purpose}:{e.data.channel}" for e in events],
        [e.data.patient_id for e in events],
        [e.data.state for e in events],
        [None] * len(events),
        [e.time for e in events],
        [e.precedence for e in events],
    )


def _interaction_handler(code_field: str | None, about_field: str | None = None) -> Handler[Any]:
    async def on_interaction(
        connection: AsyncConnection, events: Sequence[AnyEvent], _: datetime
    ) -> None:
        await fetch(
            connection,
            facts.INTERACTION,
            [e.clinic_id for e in events],
            [e.topic for e in events],
            [e.subject for e in events],
            [_patient_of(e) for e in events],
            [_text(getattr(e.data, code_field)) if code_field else None for e in events],
            [getattr(e.data, about_field) if about_field else None for e in events],
            [e.time for e in events],
            [e.precedence for e in events],
        )

    return on_interaction


def _patient_of(event: AnyEvent) -> UUID | None:
    found: UUID | None = getattr(event.data, "patient_id", None)
    return found


def _text(value: object) -> str | None:
    return None if value is None else str(value)


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
    c.LeadLost: _interaction_handler("reason_code"),
    c.LinkIssued: _interaction_handler("purpose", "subject_id"),
    c.JourneyEnrolled: _interaction_handler("journey"),
    c.MessageSent: _interaction_handler("journey"),
    c.MessageDelivered: _interaction_handler("journey"),
    c.MessageFailed: _interaction_handler("journey"),
    c.TaskOpened: _interaction_handler("reason"),
    c.TaskClosed: _interaction_handler("outcome"),
    c.ConsentChanged: on_consent_changed,
    c.ReviewPosted: _interaction_handler("platform"),
    c.ComplaintOpened: _interaction_handler("cause_code"),
    c.ComplaintResolved: _interaction_handler("cause_code"),
    c.ActionVerified: _interaction_handler("verdict"),
    c.TokenRevoked: on_token_revoked,
}

_FACTS = tuple(contract for contract in HANDLERS if contract is not c.TokenRevoked)
PROJECTIONS: Projections = dict.fromkeys(tables.FACTS, _FACTS)
"""What a rebuild makes again: every fact; almost each event puts its patient into the queue as well."""
