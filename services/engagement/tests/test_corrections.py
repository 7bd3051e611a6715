"""Corrections that move a visit or an appointment to another patient: both are looked at again."""

import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.apps import tell

from engagement.tasks.schedule import TaskExpiry
from engagement.two_z.schedule import TwoZRepair
from engagement.two_z.usecases import two_z_statement
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_events import testing
from revisit_events.envelope import AnyEvent
from standalone.cluster import ServiceDatabase

DONE = datetime(2026, 3, 2, 13, tzinfo=UTC)
LATER = datetime(2026, 3, 4, 9, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ANNA, BORIS = uuid.UUID(int=7), uuid.UUID(int=8)
APPOINTMENT = uuid.UUID(int=2)


class Desk:
    """What a clinic tells engagement, and what engagement makes of it."""

    def __init__(self, database: Database, worker: Database, clinic_id: uuid.UUID) -> None:
        self.database = database
        self.clinic_id = clinic_id
        self.clock = SimulatedClock(DONE)
        self.work = (TwoZRepair(worker), TaskExpiry(worker))

    async def told(self, at: datetime, *events: AnyEvent) -> None:
        self.clock.set(at)
        await tell("engagement", self.database, events, at)
        while any([await kind.run_due(self.clock) for kind in self.work]):
            pass

    async def rows(self, query: str) -> Sequence[tuple[object, ...]]:
        async with self.database.transaction([self.clinic_id]) as connection:
            return [tuple(row) for row in await connection.exec_driver_sql(query)]

    async def open_tasks_of(self) -> list[object]:
        rows = await self.rows("SELECT patient_id FROM task WHERE outcome IS NULL ORDER BY 1")
        return [row[0] for row in rows]

    async def counts(self) -> tuple[int, int, int, int]:
        async with self.database.transaction([self.clinic_id]) as connection:
            found = await two_z_statement(
                connection, self.clinic_id, self.clock.now(), after=None, limit=5
            )
        counts = found.counts
        return counts.released, counts.booked, counts.task_open, counts.violations


@pytest.fixture
async def desk(
    service_database: ServiceDatabase, database: Database, clinic_id: uuid.UUID
) -> AsyncIterator[Desk]:
    worker = Database(service_database.worker_database_url)
    desk = Desk(database, worker, clinic_id)
    live = DONE - 30 * DAY
    await desk.told(DONE, testing.clinic_registered(clinic_id=clinic_id, time=live, live_from=live))
    yield desk
    await worker.close()


def visit(
    clinic_id: uuid.UUID, patient_id: uuid.UUID, at: datetime, *, number: int = 1
) -> AnyEvent:
    return testing.visit_completed(
        clinic_id=clinic_id,
        visit_id=uuid.UUID(int=number),
        patient_id=patient_id,
        appointment_id=None,
        completed_at=DONE,
        time=at,
    )


async def test_visit_of_another_patient_leaves_no_task_behind(desk: Desk) -> None:
    await desk.told(DONE, visit(desk.clinic_id, ANNA, DONE))
    await desk.told(LATER)
    assert await desk.open_tasks_of() == [ANNA]
    await desk.told(LATER + HOUR, visit(desk.clinic_id, BORIS, LATER))
    assert await desk.open_tasks_of() == [BORIS]
    closed = await desk.rows("SELECT patient_id, outcome FROM task WHERE outcome IS NOT NULL")
    assert closed == [(ANNA, "not_needed")]
    assert await desk.counts() == (0, 0, 1, 0)
    messages = await desk.rows("SELECT patient_id FROM message")
    assert messages == [(BORIS,)]


async def test_late_copy_of_the_corrected_visit_changes_nothing(desk: Desk) -> None:
    await desk.told(LATER, visit(desk.clinic_id, BORIS, LATER))
    await desk.told(LATER + HOUR, visit(desk.clinic_id, ANNA, DONE))
    assert await desk.open_tasks_of() == [BORIS]


@pytest.mark.parametrize("correction", ["rescheduled", "confirmed"])
async def test_appointment_of_another_patient_is_missed_at_once(
    desk: Desk, correction: str
) -> None:
    plan: dict[str, Any] = {"clinic_id": desk.clinic_id, "appointment_id": APPOINTMENT}
    starts_at = LATER + 20 * DAY
    await desk.told(
        DONE,
        visit(desk.clinic_id, ANNA, DONE),
        visit(desk.clinic_id, BORIS, DONE, number=3),
        testing.appointment_booked(**plan, patient_id=ANNA, starts_at=starts_at, time=DONE),
    )
    await desk.told(LATER)
    assert await desk.open_tasks_of() == [BORIS]
    if correction == "rescheduled":
        told: AnyEvent = testing.appointment_rescheduled(
            **plan, patient_id=BORIS, starts_at=starts_at, time=LATER
        )
    else:
        told = testing.appointment_confirmed(**plan, patient_id=BORIS, time=LATER)
    await desk.told(LATER + HOUR, told)
    assert await desk.open_tasks_of() == [ANNA]
    assert await desk.counts() == (0, 1, 1, 0)
    reminders = await desk.rows("SELECT patient_id FROM message WHERE journey = 'reminder'")
    assert reminders == [(BORIS,)]
