"""Any order and any repetition of a patient's events ends with the same projections, messages and tasks."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engagement.consumers import HANDLERS
from engagement.two_z.schedule import TwoZRepair
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_events import testing
from revisit_events.catalog import CATALOG
from revisit_events.consumer import handle
from revisit_events.envelope import AnyEvent
from revisit_events.inbox import Months, claim
from standalone.cluster import Cluster, ServiceDatabase

NOW = datetime(2026, 2, 1, 9, 0, tzinfo=UTC)
START = datetime(2026, 1, 12, 9, 0, tzinfo=UTC)
DAY = timedelta(days=1)
ORDER = [contract for contract in CATALOG.values() if contract in HANDLERS]
ANNA, BORIS = uuid.UUID(int=7), uuid.UUID(int=8)
TABLES = {
    "clinic": "time_zone, language",
    "patient": "patient_id, language, time_zone, erased_at",
    "appointment": "appointment_id, patient_id, status, starts_at",
    "visit": "visit_id, patient_id, outcome, completed_at",
    "message": "patient_id, journey, step, subject_id, occurrence, state, due_at, expires_at",
    "task": "patient_id, reason, closed_at IS NULL",
}


@pytest.fixture(scope="module")
def engagement_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("engagement")


async def apply(database: Database, events: Sequence[AnyEvent]) -> None:
    await Months(database).ensure([event.time for event in events])
    async with database.transaction({event.clinic_id for event in events}) as connection:
        await handle(connection, HANDLERS, ORDER, await claim(connection, events), NOW)


async def state(database: Database, clinic_id: uuid.UUID) -> dict[str, list[str]]:
    found = {}
    async with database.transaction((clinic_id,)) as connection:
        for table, columns in TABLES.items():
            rows = await connection.exec_driver_sql(f'SELECT {columns} FROM "{table}"')
            found[table] = sorted(str(tuple(row)) for row in rows)
    return found


def life() -> list[AnyEvent]:
    """Two patients: kept, moved, cancelled and missed appointments, a correction, an erasure."""
    kept, moved, missed = (uuid.UUID(int=number) for number in (1, 2, 3))
    anna: dict[str, Any] = {"patient_id": ANNA}
    boris: dict[str, Any] = {"patient_id": BORIS}
    late = NOW + 5 * DAY
    return [
        testing.clinic_registered(
            time=START - DAY, live_from=START - DAY, time_zone="Europe/Moscow"
        ),
        testing.patient_registered(time=START, language="ru", **anna),
        testing.patient_updated(time=START + DAY, language="en", time_zone="Asia/Omsk", **anna),
        testing.appointment_booked(
            time=START, appointment_id=kept, starts_at=START + 2 * DAY, **anna
        ),
        testing.visit_completed(
            time=START + 2 * DAY, appointment_id=kept, completed_at=START + 2 * DAY, **anna
        ),
        testing.appointment_booked(time=START, appointment_id=moved, starts_at=late, **anna),
        testing.appointment_rescheduled(
            time=START + DAY, appointment_id=moved, starts_at=late + DAY, **anna
        ),
        testing.appointment_cancelled(time=START + 3 * DAY, appointment_id=moved, **anna),
        testing.appointment_booked(
            time=START, appointment_id=missed, starts_at=START + 4 * DAY, **boris
        ),
        testing.appointment_no_show(time=START + 5 * DAY, appointment_id=missed, **boris),
        testing.visit_completed(
            time=START + DAY, visit_id=uuid.UUID(int=9), completed_at=START + DAY, **boris
        ),
        testing.patient_erased(time=START + 6 * DAY, **boris),
    ]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
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
        size = data.draw(st.integers(1, len(events)))
        await apply(database, [_of(event, first) for event in events])
        posted = [_of(events[number], second) for number in [*order, *repeats]]
        for start in range(0, len(posted), size):
            await apply(database, posted[start : start + size])
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
        data = data.model_copy(update={"clinic_id": clinic_id})
    return replace(event, clinic_id=clinic_id, data=data, _encoded=None, _time_text=None)
