"""What feedback consumes: one function an event type, `HANDLERS` at the end lists all of them.

Every handler is set-based, converges whatever the order, and does nothing for what it saw before.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.complaints.store import forget_texts as forget_complaints
from feedback.projections import store as projections
from feedback.reviews.store import forget_texts as forget_reviews
from feedback.reviews.usecases import open_cases_of_clinics
from feedback.surveys import store as surveys
from feedback.surveys.domain import SURVEY_PURPOSE
from revisit_events.contracts import (
    ClinicRegistered,
    LinkIssued,
    PatientErased,
    TokenRevoked,
    VisitCompleted,
)
from revisit_events.envelope import Event
from revisit_events.handlers import Handlers
from revisit_events.rebuild import Projections
from revisit_events.revocations import on_token_revoked


async def on_clinic_registered(
    connection: AsyncConnection, events: Sequence[Event[ClinicRegistered]], _now: datetime
) -> None:
    """Keeps the clinic's name, language and `live_from`; low reviews that waited for it open cases."""
    await projections.upsert_clinics(
        connection,
        [
            projections.Clinic(
                clinic_id=event.clinic_id,
                name=event.data.name,
                language=event.data.language,
                live_from=event.data.live_from or event.time,
                precedence=event.precedence,
            )
            for event in events
        ],
    )
    await open_cases_of_clinics(connection, {event.clinic_id for event in events})


async def on_visit_completed(
    connection: AsyncConnection, events: Sequence[Event[VisitCompleted]], _now: datetime
) -> None:
    """Keeps who saw whom, so that an answer names the practitioner."""
    await projections.upsert_visits(
        connection,
        [
            projections.Visit(
                clinic_id=event.clinic_id,
                visit_id=event.data.visit_id,
                patient_id=event.data.patient_id,
                practitioner_id=event.data.practitioner_id,
                completed_at=event.data.completed_at,
                precedence=event.precedence,
            )
            for event in events
        ],
    )


async def on_link_issued(
    connection: AsyncConnection, events: Sequence[Event[LinkIssued]], _now: datetime
) -> None:
    """Keeps the links whose page is served here."""
    links = [
        surveys.IssuedLink(
            clinic_id=event.clinic_id,
            link_id=event.data.link_id,
            token_hash=event.data.token_hash,
            patient_id=event.data.patient_id,
            visit_id=event.data.subject_id,
            language=event.data.language,
            expires_at=event.data.expires_at,
        )
        for event in events
        if event.data.purpose == SURVEY_PURPOSE
    ]
    if links:
        await surveys.insert_links(connection, links)


async def on_patient_erased(
    connection: AsyncConnection, events: Sequence[Event[PatientErased]], _now: datetime
) -> None:
    """Removes what the patients wrote; scores and ratings stay, without a person."""
    await projections.mark_erased(
        connection, [(event.clinic_id, event.data.patient_id, event.time) for event in events]
    )
    pairs = sorted({(event.clinic_id, event.data.patient_id) for event in events})
    await surveys.forget_comments(connection, pairs)
    await forget_complaints(connection, pairs)
    await forget_reviews(connection, pairs)


PROJECTIONS: Projections = {
    "visit": (VisitCompleted,),
    "survey_link": (LinkIssued,),
    "erased_patient": (PatientErased,),
    "clinic": (ClinicRegistered,),
}
"""Tables that hold nothing but what these handlers wrote; a rebuild empties and fills them."""

HANDLERS: Handlers = {
    ClinicRegistered: on_clinic_registered,
    VisitCompleted: on_visit_completed,
    LinkIssued: on_link_issued,
    PatientErased: on_patient_erased,
    TokenRevoked: on_token_revoked,
}
