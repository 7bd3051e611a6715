"""Transactions that meet take their locks in one order: they wait for each other and never deadlock.

Each test stops one transaction amid its locks, lets another run into it, and lets both go on. In another
order PostgreSQL would end one of them after a second.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from booking.domain.appointment import Schedule
from booking.domain.errors import AlreadyExists
from booking.store import appointments
from booking.usecases.appointments import book_appointment, reschedule_appointment
from booking.usecases.no_show import NoShowTimer
from booking.usecases.reports import take_reports
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_events import intake, testing
from revisit_events.envelope import AnyEvent
from standalone.cluster import Cluster, ServiceDatabase

NOW = datetime(2026, 1, 15, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
LATER = NOW + timedelta(days=3)
FIRST, SECOND = uuid.UUID(int=1), uuid.UUID(int=2)
WAIT_SECONDS = 10

Waiting = Callable[[int], Awaitable[None]]


@pytest.fixture(scope="module")
def service_database(postgres: Cluster) -> ServiceDatabase:
    """A database of its own: the timer takes what is due of any clinic."""
    return postgres.create("booking")


@pytest.fixture
async def stop(
    service_database: ServiceDatabase, clinic_id: uuid.UUID
) -> AsyncIterator[Callable[[str], Any]]:
    """Somebody who holds a lock until both transactions have come as far as they can."""
    bystander = Database(service_database.database_url, pool_size=1)
    owner = Database(service_database.owner_database_url, pool_size=1)

    @asynccontextmanager
    async def holding(statement: str) -> AsyncIterator[Waiting]:
        # A table as a whole only its owner may lock, who sees no rows.
        who = owner if statement.startswith("LOCK TABLE") else bystander
        async with who.transaction([clinic_id]) as connection:
            await connection.exec_driver_sql(statement)

            async def waiting(number: int) -> None:
                found = 0
                async with asyncio.timeout(WAIT_SECONDS):
                    while found < number:
                        await asyncio.sleep(0.01)
                        found = (await connection.exec_driver_sql(_WAITING)).scalar_one()

            yield waiting

    yield holding
    await bystander.close()
    await owner.close()


_WAITING = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"


@pytest.fixture
async def database(
    service_database: ServiceDatabase, clinic_id: uuid.UUID
) -> AsyncIterator[Database]:
    """Of a clinic with two patients, who have two appointments."""
    database = Database(service_database.database_url)
    registered = testing.clinic_registered(
        clinic_id=clinic_id, time=NOW - timedelta(days=30), live_from=NOW - timedelta(days=30)
    )
    await _apply(database, registered, *(booked(clinic_id, one) for one in (FIRST, SECOND)))
    yield database
    await database.close()


async def _apply(database: Database, *events: AnyEvent, are_new: bool = False) -> None:
    async with database.transaction({event.clinic_id for event in events}) as connection:
        await take_reports(connection, events, NOW, are_new=are_new)


def booked(clinic_id: uuid.UUID, which: uuid.UUID, **data: Any) -> AnyEvent:
    known: dict[str, Any] = {
        "patient_id": which,
        "starts_at": LATER,
        "ends_at": None,
        "time": NOW - 2 * HOUR,
    }
    return testing.appointment_booked(clinic_id=clinic_id, appointment_id=which, **known | data)


def cancelled(clinic_id: uuid.UUID, which: uuid.UUID) -> AnyEvent:
    return testing.appointment_cancelled(
        clinic_id=clinic_id, appointment_id=which, patient_id=which, time=NOW
    )


def moved(clinic_id: uuid.UUID, which: uuid.UUID) -> AnyEvent:
    return testing.appointment_rescheduled(
        clinic_id=clinic_id,
        appointment_id=which,
        patient_id=which,
        starts_at=LATER + timedelta(days=1),
        time=NOW,
    )


def registered(clinic_id: uuid.UUID, which: uuid.UUID) -> AnyEvent:
    return testing.patient_registered(clinic_id=clinic_id, patient_id=which, time=NOW)


def erased(clinic_id: uuid.UUID, which: uuid.UUID) -> AnyEvent:
    return testing.patient_erased(clinic_id=clinic_id, patient_id=which, time=NOW)


Batches = Callable[[uuid.UUID], tuple[list[AnyEvent], list[AnyEvent]]]


@pytest.mark.parametrize(
    ("table", "batches"),
    [
        (
            "appointment",
            lambda clinic: (
                [moved(clinic, FIRST), cancelled(clinic, SECOND)],
                [moved(clinic, SECOND), cancelled(clinic, FIRST)],
            ),
        ),
        (
            "patient",
            lambda clinic: (
                [registered(clinic, FIRST), erased(clinic, SECOND)],
                [registered(clinic, SECOND), erased(clinic, FIRST)],
            ),
        ),
        (
            "patient",
            lambda clinic: (
                [registered(clinic, FIRST), cancelled(clinic, FIRST)],
                [cancelled(clinic, FIRST), erased(clinic, FIRST)],
            ),
        ),
    ],
    ids=["moved and cancelled", "registered and erased", "erased with an appointment"],
)
async def test_batches_about_the_same_records_wait_for_each_other(
    database: Database,
    clinic_id: uuid.UUID,
    stop: Callable[[str], Any],
    table: str,
    batches: Batches,
) -> None:
    async with asyncio.TaskGroup() as group:
        held = f"SELECT FROM {table} WHERE {table}_id = '{FIRST}' FOR UPDATE"
        async with stop(held) as waiting:
            for number, batch in enumerate(batches(clinic_id), 1):
                group.create_task(_apply(database, *batch))
                await waiting(number)


async def test_batch_waits_for_a_put_of_a_patient_whom_both_name(
    client: httpx.AsyncClient, stop: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_ATTEMPTS", 1)
    visit = {
        "specversion": "1.0",
        "id": "v-1",
        "source": "//mis",
        "type": "visit.completed.v1",
        "time": NOW.isoformat(),
        "data": {
            "visit_id": "V-1",
            "patient_id": "P-1",
            "completed_at": NOW.isoformat(),
            "kind": "check_up",
            "outcome": "healthy",
        },
    }
    # The PUT has locked its patient when it comes to publish; the batch gets as far as that.
    outbox = stop("LOCK TABLE outbox IN SHARE MODE")
    async with asyncio.TaskGroup() as group, outbox as waiting:
        put = group.create_task(
            client.put("/v1/patients/P-1", json={"name": {"given": "Anna"}, "contacts": {}})
        )
        await waiting(1)
        as_json = {"Content-Type": "application/cloudevents+json"}
        posted = group.create_task(client.post("/v1/events", json=visit, headers=as_json))
        await waiting(2)
    assert (put.result().status_code, posted.result().status_code) == (201, 202)


@pytest.mark.parametrize("are_new", [False, True])
async def test_visits_take_whom_they_name_before_their_appointments(
    database: Database,
    clinic_id: uuid.UUID,
    stop: Callable[[str], Any],
    *,
    are_new: bool,
) -> None:
    patient = uuid.UUID(int=7)
    visit = testing.visit_completed(
        clinic_id=clinic_id, appointment_id=FIRST, patient_id=patient, time=NOW
    )

    made = stop(f"INSERT INTO patient (clinic_id, patient_id) VALUES ('{clinic_id}', '{patient}')")
    async with asyncio.TaskGroup() as group, made as waiting:
        group.create_task(_apply(database, visit, are_new=are_new))
        await waiting(1)
        async with database.transaction([clinic_id]) as connection:
            # At the patient, it holds nothing that comes after.
            await connection.exec_driver_sql(
                f"SELECT FROM appointment WHERE appointment_id = '{FIRST}' FOR UPDATE NOWAIT"
            )


async def test_visits_come_after_their_appointments(
    database: Database, clinic_id: uuid.UUID, stop: Callable[[str], Any]
) -> None:
    visit_id = uuid.UUID(int=8)
    about: dict[str, Any] = {"clinic_id": clinic_id, "visit_id": visit_id, "patient_id": FIRST}
    await _apply(database, testing.visit_completed(**about, time=NOW - HOUR))
    held = stop(f"SELECT FROM appointment WHERE appointment_id = '{FIRST}' FOR UPDATE")
    async with asyncio.TaskGroup() as group, held as waiting:
        again = testing.visit_completed(**about, appointment_id=FIRST, time=NOW)
        group.create_task(_apply(database, again))
        await waiting(1)
        async with database.transaction([clinic_id]) as connection:
            await connection.exec_driver_sql(
                f"SELECT FROM visit WHERE visit_id = '{visit_id}' FOR UPDATE NOWAIT"
            )


@pytest.mark.parametrize("are_new", [False, True])
async def test_visits_and_others_name_what_is_new_in_one_order(
    database: Database,
    clinic_id: uuid.UUID,
    stop: Callable[[str], Any],
    *,
    are_new: bool,
) -> None:
    patient, doctor = uuid.UUID(int=7), uuid.UUID(int=9)
    named: dict[str, Any] = {"patient_id": patient, "service_code": "dental.filling"}
    visit = testing.visit_completed(clinic_id=clinic_id, time=NOW, **named)

    plan = booked(clinic_id, uuid.UUID(int=3), practitioner_id=doctor, **named)
    # The plan has its patient and comes to its practitioner; the visit comes to that patient.
    made = stop(
        f"INSERT INTO practitioner (clinic_id, practitioner_id) VALUES ('{clinic_id}', '{doctor}')"
    )
    async with asyncio.TaskGroup() as group, made as waiting:
        group.create_task(_apply(database, plan))
        await waiting(1)
        group.create_task(_apply(database, visit, are_new=are_new))
        await waiting(2)


@pytest.mark.parametrize("is_moved", [False, True], ids=["booked", "rescheduled"])
async def test_command_takes_what_it_names_before_its_appointment(
    database: Database, clinic_id: uuid.UUID, stop: Callable[[str], Any], *, is_moved: bool
) -> None:
    doctor = uuid.UUID(int=9)
    which = FIRST if is_moved else uuid.UUID(int=3)

    async def command() -> None:
        async with database.transaction([clinic_id]) as connection:
            if is_moved:
                await reschedule_appointment(connection, clinic_id, which, LATER, None, doctor, NOW)
            else:
                plan = Schedule(LATER, None, booked_at=NOW, practitioner_id=doctor)
                # The batch was first: that much the caller is to be told.
                with pytest.raises(AlreadyExists):
                    await book_appointment(connection, clinic_id, which, FIRST, plan, NOW)

    batch = [
        registered(clinic_id, SECOND),
        booked(clinic_id, which, patient_id=FIRST, practitioner_id=doctor),
    ]
    # The batch has made the practitioner's row when it comes to its patient.
    patient = stop(f"SELECT FROM patient WHERE patient_id = '{SECOND}' FOR UPDATE")
    async with asyncio.TaskGroup() as group, patient as waiting:
        group.create_task(_apply(database, *batch))
        await waiting(1)
        group.create_task(command())
        await waiting(2)


async def test_timer_takes_history_in_its_place(
    database: Database,
    service_database: ServiceDatabase,
    clinic_id: uuid.UUID,
    stop: Callable[[str], Any],
) -> None:
    long_ago, yesterday = NOW - timedelta(days=40), NOW - timedelta(days=1)
    await _apply(
        database,
        booked(clinic_id, FIRST, starts_at=yesterday, time=NOW - HOUR),
        booked(clinic_id, SECOND, starts_at=long_ago, time=NOW - HOUR),
    )
    worker = Database(service_database.worker_database_url)

    async def lock_both() -> None:
        async with database.transaction([clinic_id]) as connection:
            keys = [(clinic_id, FIRST), (clinic_id, SECOND)]
            await appointments.lock_appointments(connection, keys)

    async with asyncio.TaskGroup() as group:
        held = f"SELECT FROM appointment WHERE appointment_id = '{FIRST}' FOR UPDATE"
        async with stop(held) as waiting:
            group.create_task(lock_both())
            await waiting(1)
            group.create_task(NoShowTimer(worker).run_due(SimulatedClock(NOW)))
            await waiting(2)
    await worker.close()
