"""One clinic's world for tests of the 2Z rule: its facts, its clock and what the worker does."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from engagement.tasks.domain import Outcome
from engagement.tasks.schedule import TaskExpiry
from engagement.tasks.usecases import finish_task
from engagement.two_z import usecases
from engagement.two_z.domain import ReleaseReason
from engagement.two_z.schedule import TwoZRepair
from engagement.two_z.usecases import Statement, forget_patients, two_z_statement
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database

DONE = datetime(2026, 3, 2, 13, tzinfo=UTC)
DUE = datetime(2026, 3, 2, 21, tzinfo=UTC)
DAY = timedelta(days=1)
LIVE_FROM = DONE - 30 * DAY


class World:
    """One clinic of its own, its facts written straight into the projections."""

    def __init__(self, app: Database, worker: Database, now: datetime) -> None:
        self.app = app
        self.worker = worker
        self.clock = SimulatedClock(now)
        self.clinic_id = uuid.uuid4()

    async def run(self, statement: str, **values: object) -> Sequence[sa.Row[tuple[object, ...]]]:
        async with self.app.transaction([self.clinic_id]) as connection:
            result = await connection.execute(
                sa.text(statement), {"clinic_id": self.clinic_id, **values}
            )
            return result.all() if result.returns_rows else []

    async def clinic(self, zone: str = "Europe/Moscow", live_from: datetime = LIVE_FROM) -> None:
        await self.run(
            "INSERT INTO clinic VALUES (:clinic_id, 'Clinic', :zone, 'ru', 'RUB', 'RU', :live, '')",
            zone=zone,
            live=live_from,
        )
        async with self.app.transaction([self.clinic_id]) as connection:
            await usecases.touch_clinics(connection, [self.clinic_id], self.clock.now())

    async def visit(
        self, patient: uuid.UUID, completed_at: datetime = DONE, outcome: str = "treated"
    ) -> uuid.UUID:
        visit_id = uuid.uuid4()
        async with self.app.transaction([self.clinic_id]) as connection:
            await connection.execute(
                sa.text("""
                    INSERT INTO visit (
                        clinic_id, visit_id, patient_id, outcome, completed_at, precedence
                    ) VALUES (:clinic_id, :visit_id, :patient_id, :outcome, :completed_at, '')
                """),
                {
                    "clinic_id": self.clinic_id,
                    "visit_id": visit_id,
                    "patient_id": patient,
                    "outcome": outcome,
                    "completed_at": completed_at,
                },
            )
            await usecases.touch_visits(connection, [(self.clinic_id, patient, completed_at)])
        return visit_id

    async def appointment(
        self,
        patient: uuid.UUID,
        starts_at: datetime | None,
        status: str = "booked",
        appointment_id: uuid.UUID | None = None,
    ) -> uuid.UUID:
        appointment_id = appointment_id or uuid.uuid4()
        async with self.app.transaction([self.clinic_id]) as connection:
            await connection.execute(
                sa.text("""
                    INSERT INTO appointment (
                        clinic_id, appointment_id, patient_id, starts_at, status, status_precedence
                    ) VALUES (:clinic_id, :appointment_id, :patient_id, :starts_at, :status, '')
                    ON CONFLICT (clinic_id, appointment_id) DO UPDATE
                    SET status = excluded.status, starts_at = excluded.starts_at
                """),
                {
                    "clinic_id": self.clinic_id,
                    "appointment_id": appointment_id,
                    "patient_id": patient,
                    "starts_at": starts_at,
                    "status": status,
                },
            )
            await usecases.touch(connection, [(self.clinic_id, patient)], self.clock.now())
        return appointment_id

    async def erase(self, patient: uuid.UUID) -> None:
        async with self.app.transaction([self.clinic_id]) as connection:
            await connection.execute(
                sa.text("""
                    INSERT INTO patient (clinic_id, patient_id, erased_at)
                    VALUES (:clinic_id, :patient_id, :now)
                """),
                {"clinic_id": self.clinic_id, "patient_id": patient, "now": self.clock.now()},
            )
            pairs = [(self.clinic_id, patient)]
            await forget_patients(connection, pairs, self.clock.now())

    async def release(
        self, patient: uuid.UUID, reason: ReleaseReason = ReleaseReason.MOVED_AWAY
    ) -> None:
        async with self.app.transaction([self.clinic_id]) as connection:
            await usecases.release_patient(
                connection,
                self.clinic_id,
                patient,
                usecases.Release(reason, "doctor", "anna"),
                self.clock.now(),
            )

    async def finish(self, task_id: uuid.UUID, outcome: Outcome) -> None:
        async with self.app.transaction([self.clinic_id]) as connection:
            await finish_task(
                connection,
                self.clinic_id,
                task_id,
                outcome=outcome,
                minutes=3,
                call_back_at=None,
                by="anna",
                now=self.clock.now(),
            )

    async def settle(self, at: datetime | None = None) -> None:
        """Moves the clock and does all that is due, like the worker does."""
        if at is not None:
            self.clock.set(at)
        kinds = (TwoZRepair(self.worker), TaskExpiry(self.worker))
        while any([await kind.run_due(self.clock) for kind in kinds]):
            pass

    async def statement(self, *, after: uuid.UUID | None = None, limit: int = 20) -> Statement:
        async with self.app.transaction([self.clinic_id]) as connection:
            return await two_z_statement(
                connection, self.clinic_id, self.clock.now(), after=after, limit=limit
            )

    async def tasks(self, patient: uuid.UUID) -> Sequence[sa.Row[tuple[object, ...]]]:
        return await self.run(
            "SELECT * FROM task WHERE patient_id = :patient ORDER BY opened_at", patient=patient
        )

    async def published(self, topic: str) -> int:
        rows = await self.run(
            "SELECT count(*) AS n FROM outbox WHERE clinic_id = :clinic_id AND topic = :topic",
            topic=topic,
        )
        return int(str(rows[0].n))

    async def counts(self) -> tuple[int, int, int, int]:
        found = (await self.statement()).counts
        return found.released, found.booked, found.task_open, found.violations
