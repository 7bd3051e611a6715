"""Any order and any repetition of a patient's events ends with the same projections, messages and tasks."""

import base64
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engagement.__main__ import PROJECTIONS
from engagement.consent.domain import ConsentState, Purpose, Statement
from engagement.consent.usecases import record_statements
from engagement.consumers import HANDLERS
from engagement.two_z.schedule import TwoZRepair
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_events import testing
from revisit_events.catalog import CATALOG
from revisit_events.effects import Effects
from revisit_events.envelope import AnyEvent
from revisit_events.inbox import Months
from revisit_events.rebuild import rebuild
from standalone.cluster import Cluster, ServiceDatabase

NOW = datetime(2026, 2, 1, 9, 0, tzinfo=UTC)
START = datetime(2026, 1, 12, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
ORDER = [contract for contract in CATALOG.values() if contract in HANDLERS]
ANNA, BORIS, CLARA = (uuid.UUID(int=number) for number in (7, 8, 9))
FACTS = {
    "clinics": "SELECT time_zone, language FROM clinic",
    "patients": "SELECT patient_id, language, time_zone, erased_at FROM patient",
    "contacts": "SELECT patient_id, encode(contact_ciphertext, 'hex') FROM patient",
    "appointments": "SELECT appointment_id, patient_id, status, starts_at FROM appointment",
    "visits": "SELECT visit_id, patient_id, outcome, completed_at FROM visit",
    "messages": "SELECT patient_id, journey, step, subject_id, occurrence, state, due_at, expires_at "
    "FROM message",
    # A task that was closed again may never have been opened in another order.
    "tasks": "SELECT patient_id, reason, subject_id FROM task WHERE outcome IS NULL",
    "consents": "SELECT patient_id, purpose, channel, state, given_at, source FROM consent",
}


@dataclass(frozen=True, slots=True)
class Said:
    """What a patient said about being contacted; comes over HTTP, beside the events."""

    patient_id: uuid.UUID
    statement: Statement


@pytest.fixture(scope="module")
def engagement_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("engagement")


async def apply(database: Database, clinic_id: uuid.UUID, told: Sequence[AnyEvent | Said]) -> None:
    for one in told:
        if isinstance(one, Said):
            async with database.transaction([clinic_id]) as connection:
                await record_statements(
                    connection, clinic_id, one.patient_id, [one.statement], by="anna", now=NOW
                )
    events = [_of(one, clinic_id) for one in told if not isinstance(one, Said)]
    await Effects("engagement", database, HANDLERS, SimulatedClock(NOW)).apply(events)


async def state(database: Database, clinic_id: uuid.UUID) -> dict[str, list[str]]:
    found = {}
    async with database.transaction((clinic_id,)) as connection:
        for name, query in FACTS.items():
            rows = await connection.exec_driver_sql(query)
            found[name] = sorted(str(tuple(row)) for row in rows)
    return found


def life() -> list[AnyEvent | Said]:
    """Three patients: what the house knows of visits, corrections, contacts, consents, an erasure."""
    return [
        testing.clinic_registered(
            time=START - DAY, live_from=START - DAY, time_zone="Europe/Moscow"
        ),
        *appointments(),
        *contacts(),
        *consents(),
        *corrections(),
        testing.complaint_opened(time=START + 2 * DAY, patient_id=ANNA),
        testing.complaint_opened(time=START + 2 * DAY, patient_id=BORIS),
        testing.patient_erased(time=START + 6 * DAY, patient_id=BORIS),
    ]


def appointments() -> list[AnyEvent]:
    """Kept, moved, confirmed and cancelled; missed; missed and yet not."""
    kept, moved, missed, late = (uuid.UUID(int=number) for number in range(1, 5))
    anna: dict[str, Any] = {"patient_id": ANNA}
    boris: dict[str, Any] = {"patient_id": BORIS}
    clara: dict[str, Any] = {"patient_id": CLARA}
    ahead = NOW + 5 * DAY
    return [
        testing.appointment_booked(
            time=START, appointment_id=kept, starts_at=START + 2 * DAY, **anna
        ),
        testing.visit_completed(
            time=START + 2 * DAY, appointment_id=kept, completed_at=START + 2 * DAY, **anna
        ),
        testing.appointment_booked(time=START, appointment_id=moved, starts_at=ahead, **anna),
        testing.appointment_rescheduled(
            time=START + DAY, appointment_id=moved, starts_at=ahead + DAY, **anna
        ),
        testing.appointment_confirmed(time=START + 2 * DAY, appointment_id=moved, **anna),
        testing.appointment_cancelled(time=START + 3 * DAY, appointment_id=moved, **anna),
        testing.appointment_booked(
            time=START, appointment_id=missed, starts_at=START + 4 * DAY, **boris
        ),
        testing.appointment_no_show(time=START + 5 * DAY, appointment_id=missed, **boris),
        testing.visit_completed(
            time=START + DAY, visit_id=uuid.UUID(int=9), completed_at=START + DAY, **boris
        ),
        testing.appointment_booked(
            time=START, appointment_id=late, starts_at=START + 4 * DAY, **clara
        ),
        testing.appointment_no_show(time=START + 5 * DAY, appointment_id=late, **clara),
        testing.appointment_no_show_reversed(time=START + 5 * DAY, appointment_id=late, **clara),
    ]


def contacts() -> list[AnyEvent]:
    """Changed, taken back by a tombstone that may come late, erased."""

    def sealed(text: str) -> dict[str, str]:
        return {"key_id": "k", "ciphertext": base64.b64encode(text.encode()).decode()}

    changed = testing.patient_contact_changed
    return [
        testing.patient_registered(time=START, language="ru", patient_id=ANNA),
        testing.patient_updated(
            time=START + DAY, language="en", time_zone="Asia/Omsk", patient_id=ANNA
        ),
        changed(time=START, patient_id=ANNA, contact=sealed("old")),
        changed(time=START + DAY, patient_id=ANNA, contact=sealed("new")),
        changed(time=START, patient_id=CLARA, contact=sealed("clara")),
        changed(time=START + DAY, patient_id=CLARA, contact=None),
        changed(time=START, patient_id=BORIS, contact=sealed("boris")),
        changed(time=START + 7 * DAY, patient_id=BORIS, contact=sealed("boris again")),
    ]


def consents() -> list[Said]:
    """Granted, refused, and both at one moment."""

    def said(days: int, consent_state: ConsentState, patient_id: uuid.UUID = ANNA) -> Said:
        at = START + days * DAY
        return Said(patient_id, Statement(Purpose.CARE, "sms", consent_state, "1", f"{days}", at))

    granted, refused = ConsentState.GRANTED, ConsentState.REFUSED
    return [said(1, granted), said(2, refused), said(2, granted), said(3, refused, BORIS)]


def corrections() -> list[AnyEvent]:
    """A visit and an appointment that were entered for Anna and are Clara's."""
    visit, appointment = uuid.UUID(int=11), uuid.UUID(int=12)
    at, ahead = START + 3 * DAY, NOW + 9 * DAY
    plan: dict[str, Any] = {"appointment_id": appointment, "starts_at": ahead}
    fact: dict[str, Any] = {"visit_id": visit, "appointment_id": None, "completed_at": at}
    return [
        testing.visit_completed(time=at, patient_id=ANNA, **fact),
        testing.visit_completed(time=at + DAY, patient_id=CLARA, outcome="healthy", **fact),
        testing.appointment_booked(time=at, patient_id=CLARA, **plan),
        testing.appointment_rescheduled(time=at + DAY, patient_id=ANNA, **plan),
        testing.appointment_rescheduled(time=at + 2 * DAY, patient_id=CLARA, **plan),
    ]


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
async def test_any_interleaving_and_duplication_gives_the_same_state(
    engagement_database: ServiceDatabase, data: st.DataObject
) -> None:
    database = Database(engagement_database.database_url, pool_size=2)
    workers = Database(engagement_database.worker_database_url, pool_size=2)
    try:
        first, second = uuid.uuid4(), uuid.uuid4()
        events = life()
        order = data.draw(st.permutations(range(len(events))))
        repeats = data.draw(st.lists(st.sampled_from(range(len(events))), max_size=5))
        size = data.draw(st.integers(2, len(events)))
        # Of all events at once: the months of the event log stand from then on.
        await Months(database).ensure([one.time for one in events if not isinstance(one, Said)])
        await apply(database, first, events)
        posted = [events[number] for number in [*order, *repeats]]
        for start in range(0, len(posted), size):
            await apply(database, second, posted[start : start + size])
        repair, clock = TwoZRepair(workers), SimulatedClock(NOW)
        while await repair.run_due(clock):
            pass
        assert await state(database, first) == await state(database, second)
    finally:
        await database.close()
        await workers.close()


def _of(event: AnyEvent, clinic_id: uuid.UUID) -> AnyEvent:
    """The same event in another clinic: ids may repeat across clinics."""
    data = event.data
    if hasattr(data, "clinic_id"):
        data = msgspec.structs.replace(data, clinic_id=clinic_id)
    return replace(event, clinic_id=clinic_id, data=data, _encoded=None, _time_text=None)


async def test_rebuild_gives_the_state_before_and_publishes_nothing(
    engagement_database: ServiceDatabase,
) -> None:
    database = Database(engagement_database.database_url, pool_size=2)
    try:
        clinic_id = uuid.uuid4()
        await apply(database, clinic_id, life())
        before, published = await state(database, clinic_id), await _published(database, clinic_id)
        assert before["appointments"]
        count = await rebuild(database, HANDLERS, PROJECTIONS, clinic_id, NOW)
        assert 0 < count < len(life())
        assert await state(database, clinic_id) == before
        assert await _published(database, clinic_id) == published
    finally:
        await database.close()


async def _published(database: Database, clinic_id: uuid.UUID) -> int:
    async with database.transaction((clinic_id,)) as connection:
        found = await connection.exec_driver_sql("SELECT count(*) FROM outbox")
        return int(found.scalar_one())
