"""Planning: bringing the messages of visits and appointments into line with the projections.

Called by `consumers` after a projection changed, in the same transaction. What is planned is a
function of the projections alone, so any order and any repetition of events ends with the same
messages.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.journeys import store
from engagement.journeys.domain import FOLLOW_UP, REMINDER, VERSION, Recipient, follow_up, reminder
from engagement.journeys.store import Enrolment, Journey, Subject
from engagement.messages.domain import Planned
from engagement.messages.endings import Ending, end_messages, forget_texts
from engagement.projections.store import Key, Place, SavedVisit
from revisit_chassis.identifiers import named_uuid
from revisit_events.contracts import JourneyEnrolled
from revisit_events.envelope import Event, new_event
from revisit_events.outbox import form_of, places

SOURCE = "/engagement"
_ERASED_DECISION = json.dumps(
    {
        "verdict": "drop",
        "reason": "patient_erased",
        "checks": [
            {
                "name": "erasure",
                "verdict": "drop",
                "reason": "patient_erased",
                "detail": "the patient was erased",
            }
        ],
    }
)


async def plan_visits(
    connection: AsyncConnection,
    visits: Sequence[SavedVisit],
    now: datetime,
    *,
    are_new: bool = False,
) -> None:
    """Plans the follow-ups of visits.

    Args:
        connection: Inside the transaction that saved them.
        visits: Those that stand.
        now: The moment of the enrolment.
        are_new: Whether they were saved on the guess that nothing was known of them.
    """
    subjects = [_subject(one, one.place) for one in visits if one.place is not None]
    unknown = [_key(one) for one in visits if one.place is None]
    if unknown:
        await store.lock_unknown_clinics(connection, {key.clinic_id for key in unknown})
        subjects += await store.visits(connection, unknown)
    # For a new visit nothing was planned before.
    planned_before = [_key(one) for one in visits if not one.is_new]
    await _bring_into_line(connection, FOLLOW_UP, subjects, planned_before, now, are_new=are_new)


def _key(visit: SavedVisit) -> Key:
    return Key(visit.event.clinic_id, visit.event.data.visit_id)


def _subject(visit: SavedVisit, place: Place) -> Subject:
    event, data = visit.event, visit.event.data
    who = Recipient(
        event.clinic_id,
        data.patient_id,
        visit.time_zone or place.time_zone,
        place.country,
        place.live_from,
        visit.erased_at,
    )
    return Subject(who, data.visit_id, data.completed_at, None)


async def plan_appointments(
    connection: AsyncConnection, keys: Sequence[Key], now: datetime
) -> None:
    """Plans the reminders of appointments as they are scheduled now."""
    await _plan(connection, REMINDER, keys, now)


async def await_planners(connection: AsyncConnection, clinic_ids: Collection[UUID]) -> None:
    """Call it before a registration is written.

    Whoever found one of these clinics unknown commits first, so that `plan_clinics` sees their
    visits and appointments; whoever comes later waits and finds the clinic known.
    """
    await store.lock_clinics(connection, clinic_ids)


async def plan_clinics(
    connection: AsyncConnection, clinic_ids: Collection[UUID], now: datetime
) -> None:
    """Plans everything of clinics that became known or changed their zone or their start."""
    for clinic_id in sorted(clinic_ids):
        for kind, journey in (("visit", FOLLOW_UP), ("appointment", REMINDER)):
            after: UUID | None = None
            while keys := await store.subjects_of_clinic(connection, kind, clinic_id, after):
                await _plan(connection, journey, keys, now)
                after = keys[-1].id


async def plan_patients(
    connection: AsyncConnection, patients: Sequence[Key], now: datetime
) -> None:
    """Plans again what patients have coming: they live in another time zone now."""
    if patients:
        for journey, keys in (await store.subjects_of_patients(connection, patients)).items():
            await _plan(connection, journey, keys, now)


async def drop_for_erased(connection: AsyncConnection, erased_at: Mapping[Key, datetime]) -> None:
    """Drops what erased patients had coming, and every text of a message to them."""
    endings = [
        Ending(*key, "patient_erased", _ERASED_DECISION, at) for key, at in erased_at.items()
    ]
    await end_messages(connection, endings)
    await forget_texts(connection, list(erased_at))


async def _plan(
    connection: AsyncConnection, journey: str, keys: Sequence[Key], now: datetime
) -> None:
    if keys:
        subjects = await _subjects(connection, journey, keys)
        await _bring_into_line(connection, journey, subjects, keys, now)


async def _bring_into_line(
    connection: AsyncConnection,
    journey: str,
    subjects: Sequence[Subject],
    planned_before: Sequence[Key],
    now: datetime,
    *,
    are_new: bool = False,
) -> None:
    plans = [plan for subject in subjects if (plan := _planned(journey, subject))]
    if planned_before:
        planned = [plan.message_id for plan in plans]
        await store.withdraw(connection, journey, planned_before, planned)
    enrolments = [
        _enrolment(journey, one) for one in subjects if one.happens_at >= one.recipient.live_from
    ]
    if plans or enrolments:
        told = form_of(_enrolled(journey, Enrolment(*places(4)), now))
        every = Journey(journey, VERSION, told)
        await store.save_plans(
            connection, every, plans, enrolments, _ERASED_DECISION, are_new=are_new
        )


async def _subjects(
    connection: AsyncConnection, journey: str, keys: Sequence[Key]
) -> list[Subject]:
    read = store.visits if journey == FOLLOW_UP else store.appointments
    subjects = await read(connection, keys)
    unknown = {key.clinic_id for key in keys} - {s.recipient.clinic_id for s in subjects}
    if unknown:
        await store.lock_unknown_clinics(connection, unknown)
        subjects += await read(connection, [key for key in keys if key.clinic_id in unknown])
    return subjects


def _planned(journey: str, subject: Subject) -> Planned | None:
    if journey == FOLLOW_UP:
        return follow_up(subject.recipient, subject.subject_id, subject.happens_at)
    agreed = subject.scheduled_at or subject.happens_at
    return reminder(subject.recipient, subject.subject_id, subject.happens_at, agreed)


def _enrolment(journey: str, subject: Subject) -> Enrolment:
    clinic_id, patient_id = subject.recipient.clinic_id, subject.recipient.patient_id
    name = f"enrolment:{patient_id}:{journey}:{subject.subject_id}"
    return Enrolment(clinic_id, named_uuid(clinic_id, name), patient_id, subject.subject_id)


def _enrolled(journey: str, run: Enrolment, now: datetime) -> Event[JourneyEnrolled]:
    return new_event(
        JourneyEnrolled(
            enrolment_id=run.enrolment_id,
            patient_id=run.patient_id,
            journey=journey,
            version=VERSION,
            subject_id=run.subject_id,
        ),
        source=SOURCE,
        clinic_id=run.clinic_id,
        time=now,
        id=f"{run.enrolment_id}:enrolled",
    )
