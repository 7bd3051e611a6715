"""The 2Z rule under any order of its facts, and under everything happening at once."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from engagement.tasks.domain import NewTask, Outcome, Reason, TaskClosedError
from engagement.tasks.schedule import TaskExpiry
from engagement.tasks.usecases import finish_task, open_tasks
from engagement.two_z import usecases
from engagement.two_z.schedule import TwoZRepair
from engagement.two_z.usecases import two_z_statement
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from standalone.cluster import Cluster, ServiceDatabase

START = datetime(2026, 3, 2, tzinfo=UTC)
END = START + timedelta(days=70)
Fact = tuple[str, int, datetime, str]


@pytest.fixture(scope="module")
def service_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("engagement")


class Clinic:
    """A clinic that is told facts about numbered patients."""

    def __init__(self, app: Database, worker: Database, number: int) -> None:
        self.app = app
        self.clinic_id = uuid.uuid4()
        self.clock = SimulatedClock(START)
        self.work = (TwoZRepair(worker), TaskExpiry(worker))
        self.namespace = uuid.UUID(int=number)

    def patient(self, number: int) -> uuid.UUID:
        return uuid.uuid5(self.namespace, f"patient {number}")

    async def tell(self, fact: Fact) -> None:
        kind, number, at, detail = fact
        patient_id = self.patient(number)
        values = {
            "clinic_id": self.clinic_id,
            "patient_id": patient_id,
            "id": uuid.uuid5(self.namespace, f"{kind} {number} {at}"),
            "at": at,
            "detail": detail,
        }
        async with self.app.transaction([self.clinic_id]) as connection:
            await connection.execute(sa.text(STATEMENTS[kind]), values)
            if kind == "visit":
                await usecases.touch_visits(connection, [(self.clinic_id, patient_id, at)])
            elif kind == "clinic":
                await usecases.touch_clinics(connection, [self.clinic_id], self.clock.now())
            else:
                pairs = [(self.clinic_id, patient_id)]
                await usecases.touch(connection, pairs, self.clock.now())

    async def settle(self) -> None:
        while any([await kind.run_due(self.clock) for kind in self.work]):
            pass

    async def counts(self) -> tuple[int, int, int, int]:
        async with self.app.transaction([self.clinic_id]) as connection:
            found = await two_z_statement(
                connection, self.clinic_id, self.clock.now(), after=None, limit=1
            )
        counts = found.counts
        return counts.released, counts.booked, counts.task_open, counts.violations


# Only what the clinic says once: that the newest event stands is the projections' own business.
STATEMENTS = {
    "clinic": """
        INSERT INTO clinic VALUES (:clinic_id, 'Clinic', :detail, 'ru', 'RUB', 'RU', :at, '')
        ON CONFLICT DO NOTHING
    """,
    "visit": """
        INSERT INTO visit (clinic_id, visit_id, patient_id, outcome, completed_at, precedence)
        VALUES (:clinic_id, :id, :patient_id, :detail, :at, '') ON CONFLICT DO NOTHING
    """,
    "appointment": """
        INSERT INTO appointment (
            clinic_id, appointment_id, patient_id, starts_at, status, status_precedence
        ) VALUES (:clinic_id, :id, :patient_id, :at, :detail, '') ON CONFLICT DO NOTHING
    """,
    "release": """
        INSERT INTO release VALUES (:clinic_id, :id, :patient_id, :detail, 'a', 'b', :at)
        ON CONFLICT DO NOTHING
    """,
    "erasure": """
        INSERT INTO patient (clinic_id, patient_id, erased_at)
        VALUES (:clinic_id, :patient_id, :at) ON CONFLICT DO NOTHING
    """,
}
DETAILS = {
    "visit": ["treated", "healthy", "referred_out"],
    "appointment": ["booked", "confirmed", "cancelled", "no_show", "completed", "arrived"],
    "release": ["moved_away", "opted_out"],
    "erasure": [""],
}


def facts_of(rng: random.Random, patients: int) -> list[Fact]:
    kinds = ["visit"] * 4 + ["appointment"] * 4 + ["release"] + ["erasure"] * (rng.random() < 0.3)
    told: list[Fact] = [("clinic", 0, START + timedelta(days=1), "Europe/Moscow")]
    for _ in range(6 * patients):
        kind = rng.choice(kinds)
        at = START + timedelta(minutes=rng.randrange(60 * 24 * 60))
        if kind == "appointment" and rng.random() < 0.4:
            at = END + timedelta(days=rng.random())
        told.append((kind, rng.randrange(patients), at, rng.choice(DETAILS[kind])))
    return told


@pytest.fixture
async def databases(
    service_database: ServiceDatabase,
) -> AsyncIterator[tuple[Database, Database]]:
    app = Database(service_database.database_url)
    worker = Database(service_database.worker_database_url)
    yield app, worker
    await app.close()
    await worker.close()


@pytest.mark.parametrize("seed", range(6))
async def test_any_order_and_repetition_of_the_facts_ends_in_the_same_states(
    databases: tuple[Database, Database], seed: int
) -> None:
    rng = random.Random(seed)
    facts = facts_of(rng, patients=6)
    results = []
    for shuffled in (False, True, True):
        clinic = Clinic(*databases, seed)
        told = sorted(facts, key=lambda fact: fact[2])
        if shuffled:
            told = rng.sample(facts, len(facts)) + rng.sample(facts, len(facts) // 3)
        for number, fact in enumerate(told):
            if rng.random() < 0.2:
                moment = START + (END - START) * number / len(told)
                clinic.clock.set(max(clinic.clock.now(), moment))
                await clinic.settle()
            await clinic.tell(fact)
        clinic.clock.set(END)
        await clinic.settle()
        results.append(await clinic.counts())
    assert len(set(results)) == 1
    assert results[0][3] == 0
    assert sum(results[0]) > 0


class Actors:
    """Everybody who works on the same few patients."""

    def __init__(self, clinic: Clinic, rng: random.Random, patients: int) -> None:
        self.clinic = clinic
        self.rng = rng
        self.patients = patients

    async def book(self) -> None:
        at = self.clinic.clock.now() + timedelta(minutes=self.rng.randrange(9 * 24 * 60))
        status = self.rng.choice(["booked", "cancelled", "no_show"])
        await self.clinic.tell(("appointment", self.rng.randrange(self.patients), at, status))

    async def open_more(self) -> None:
        clinic = self.clinic
        rows = [
            NewTask(
                clinic.clinic_id,
                clinic.patient(self.rng.randrange(self.patients)),
                self.rng.choice([Reason.NO_SHOW, Reason.LOW_SCORE]),
                uuid.uuid4(),
                clinic.clock.now(),
            )
            for _ in range(3)
        ]
        async with clinic.app.transaction([clinic.clinic_id]) as connection:
            await open_tasks(connection, rows, clinic.clock.now())

    async def finish(self) -> None:
        clinic = self.clinic
        async with clinic.app.transaction([clinic.clinic_id]) as connection:
            found = await connection.scalar(
                sa.text("""
                    SELECT task_id FROM task WHERE clinic_id = :clinic_id AND outcome IS NULL
                    ORDER BY task_id LIMIT 1
                """),
                {"clinic_id": clinic.clinic_id},
            )
        # A booking may close it meanwhile: that refusal is right, and not what is tested here.
        with suppress(TaskClosedError):
            async with clinic.app.transaction([clinic.clinic_id]) as connection:
                if found is not None:
                    await finish_task(
                        connection,
                        clinic.clinic_id,
                        found,
                        outcome=Outcome.NOT_REACHED,
                        minutes=1,
                        call_back_at=None,
                        by="anna",
                        now=clinic.clock.now(),
                    )

    async def repair(self) -> None:
        for kind in self.clinic.work:
            await kind.run_due(self.clinic.clock)


async def repeat(what: Callable[[], Awaitable[None]], times: int) -> None:
    for _ in range(times):
        await what()
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(3))
async def test_callers_handlers_and_repair_at_once_neither_block_nor_break_the_rule(
    databases: tuple[Database, Database], seed: int
) -> None:
    """A deadlock or a lost check would show."""
    clinic = Clinic(*databases, 1000 + seed)
    actors = Actors(clinic, random.Random(seed), patients=4)
    await clinic.tell(("clinic", 0, START, "Europe/Moscow"))
    for number in range(actors.patients):
        await clinic.tell(("visit", number, START + timedelta(hours=9), "treated"))
    clinic.clock.set(START + timedelta(days=3))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for what in (actors.book, actors.book, actors.open_more, actors.finish):
            group.create_task(repeat(what, 20))
        group.create_task(repeat(actors.repair, 40))
    await clinic.settle()
    released, booked, task_open, violations = await clinic.counts()
    assert (violations, released + booked + task_open) == (0, actors.patients)
