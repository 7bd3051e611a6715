"""The 2Z rule on a real database: the repair, the statement, releases, and their convergence."""

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from services.engagement.tests.two_z_world import DAY, DONE, DUE, LIVE_FROM, World
from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.checks.store import DueCheck, ask_for_checks, lock_checks
from engagement.consent.domain import Purpose
from engagement.consent.usecases import verified_ledger
from engagement.messages.domain import Channel
from engagement.tasks.domain import SNOOZE_LIMIT, AttemptResult, NewTask, Outcome, Reason
from engagement.tasks.usecases import open_tasks, record_attempt
from engagement.two_z import usecases
from engagement.two_z.domain import ReleaseReason
from revisit_chassis.db import Database, fetch_value
from standalone.cluster import Cluster, ServiceDatabase

# Past its fifth use a prepared statement is planned once for all.
USES_UNTIL_PLANNED = 8
ROWS_READ = """
SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::int
FROM pg_stat_xact_user_tables WHERE relname = 'two_z'
"""


@pytest.fixture(scope="module")
def service_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("engagement")


@pytest.fixture
async def world(service_database: ServiceDatabase) -> AsyncIterator[World]:
    app = Database(service_database.database_url)
    worker = Database(service_database.worker_database_url)
    yield World(app, worker, DONE)
    await app.close()
    await worker.close()


@pytest.fixture
def patient() -> uuid.UUID:
    return uuid.uuid4()


async def test_before_the_deadline_nobody_is_in_scope(world: World, patient: uuid.UUID) -> None:
    await world.clinic()
    await world.visit(patient)
    await world.settle(DUE - timedelta(seconds=1))
    assert await world.counts() == (0, 0, 0, 0)
    assert not await world.tasks(patient)


async def test_check_that_is_wanted_earlier_already_is_held_and_not_written(
    world: World, patient: uuid.UUID
) -> None:
    await world.clinic()
    async with world.app.transaction([world.clinic_id]) as connection:
        await ask_for_checks(connection, [(world.clinic_id, patient, DONE)])
    written = await world.run("SELECT ctid::text FROM two_z WHERE clinic_id = :clinic_id")
    due = [DueCheck(world.clinic_id, patient, DONE)]
    async with world.app.transaction([world.clinic_id]) as asking:
        await ask_for_checks(asking, [(world.clinic_id, patient, DONE + DAY)])
        # The repair must not read the facts before whoever changes them has committed.
        async with world.app.transaction([world.clinic_id]) as repair:
            assert await lock_checks(repair, due, DUE) == []
    async with world.app.transaction([world.clinic_id]) as repair:
        assert await lock_checks(repair, due, DUE) == due
    assert await world.run("SELECT ctid::text FROM two_z WHERE clinic_id = :clinic_id") == written


async def test_locking_a_check_reads_that_check_whatever_else_is_due(world: World) -> None:
    await world.clinic()
    checks = [DueCheck(world.clinic_id, uuid.uuid4(), DONE) for _ in range(2_000)]
    async with world.app.transaction([world.clinic_id]) as connection:
        for _ in range(USES_UNTIL_PLANNED):
            assert await lock_checks(connection, checks[:5], DUE) == []
        await ask_for_checks(connection, [(one.clinic_id, one.patient_id, DONE) for one in checks])
        before = await fetch_value(connection, ROWS_READ)
        assert len(await lock_checks(connection, checks[:5], DUE)) == 5
        assert await fetch_value(connection, ROWS_READ) - before <= 10


async def test_at_the_deadline_one_task_is_opened_and_told_of(
    world: World, patient: uuid.UUID
) -> None:
    await world.clinic()
    visit_id = await world.visit(patient)
    world.clock.set(DUE)
    assert await world.counts() == (0, 0, 0, 1)
    await world.settle()
    assert await world.counts() == (0, 0, 1, 0)
    (task,) = await world.tasks(patient)
    assert (task.reason, task.subject_id) == (Reason.NO_NEXT_APPOINTMENT, visit_id)
    assert await world.published("task.opened") == 1


async def test_repair_that_runs_again_opens_nothing(world: World, patient: uuid.UUID) -> None:
    await world.clinic()
    await world.visit(patient)
    await world.settle(DUE)
    for _ in range(3):
        async with world.app.transaction([world.clinic_id]) as connection:
            await usecases.touch(connection, [(world.clinic_id, patient)], world.clock.now())
        await world.settle()
    assert len(await world.tasks(patient)) == 1


async def test_next_appointment_counts_as_booked(world: World, patient: uuid.UUID) -> None:
    await world.clinic()
    await world.visit(patient)
    await world.appointment(patient, DUE + 5 * DAY)
    await world.settle(DUE)
    assert await world.counts() == (0, 1, 0, 0)
    assert not await world.tasks(patient)


async def test_booking_closes_the_task(world: World, patient: uuid.UUID) -> None:
    await world.clinic()
    await world.visit(patient)
    await world.settle(DUE)
    await world.appointment(patient, DUE + 5 * DAY)
    await world.settle()
    (task,) = await world.tasks(patient)
    assert (task.outcome, task.closed_by) == ("booked", "platform")
    assert await world.published("task.closed") == 1
    assert await world.counts() == (0, 1, 0, 0)


@pytest.mark.parametrize("status", ["cancelled", "no_show"])
async def test_lost_appointment_opens_a_task_that_says_why(
    world: World, patient: uuid.UUID, status: str
) -> None:
    await world.clinic()
    await world.visit(patient)
    appointment_id = await world.appointment(patient, DUE + 5 * DAY)
    await world.settle(DUE)
    await world.appointment(patient, DUE + 5 * DAY, status, appointment_id)
    await world.settle()
    (task,) = await world.tasks(patient)
    assert (task.reason, task.subject_id) == (status, appointment_id)
    assert await world.counts() == (0, 0, 1, 0)


@pytest.mark.parametrize(
    ("lasts_minutes", "counts_minutes"),
    [(45, 105), (None, 90), (0, 60), (-600, 60), (60 * 24 * 365, 13 * 60)],
)
async def test_appointment_counts_until_an_hour_after_its_end(
    world: World, patient: uuid.UUID, lasts_minutes: int | None, counts_minutes: int
) -> None:
    await world.clinic()
    await world.visit(patient)
    starts_at = DUE + 5 * DAY
    appointment_id = await world.appointment(patient, starts_at)
    if lasts_minutes is not None:
        await world.run(
            "UPDATE appointment SET ends_at = :ends_at WHERE appointment_id = :id",
            ends_at=starts_at + timedelta(minutes=lasts_minutes),
            id=appointment_id,
        )
    over_at = starts_at + timedelta(minutes=counts_minutes)
    await world.settle(DUE)
    await world.settle(over_at - timedelta(seconds=1))
    assert await world.counts() == (0, 1, 0, 0)
    assert not await world.tasks(patient)
    world.clock.set(over_at)
    assert await world.counts() == (0, 0, 0, 1)
    await world.settle()
    assert await world.counts() == (0, 0, 1, 0)


async def test_stub_of_an_appointment_is_no_booking(world: World, patient: uuid.UUID) -> None:
    await world.clinic()
    await world.visit(patient)
    await world.appointment(patient, None, "confirmed")
    await world.settle(DUE)
    assert await world.counts() == (0, 0, 1, 0)


async def test_close_without_booking_is_followed_by_a_later_task(
    world: World, patient: uuid.UUID
) -> None:
    await world.clinic()
    await world.visit(patient)
    await world.settle(DUE)
    (first,) = await world.tasks(patient)
    await world.finish(first.task_id, Outcome.REACHED_NO_BOOKING)
    await world.settle()
    _, second = await world.tasks(patient)
    assert second.due_at == DUE + 14 * DAY
    assert await world.counts() == (0, 0, 1, 0)


async def test_task_put_off_as_often_as_allowed_satisfies_the_rule_until_its_age_limit_only(
    world: World, patient: uuid.UUID
) -> None:
    await world.clinic()
    await world.visit(patient)
    await world.settle(DUE)
    (task,) = await world.tasks(patient)
    for number in range(SNOOZE_LIMIT):
        async with world.app.transaction([world.clinic_id]) as connection:
            await record_attempt(
                connection,
                world.clinic_id,
                task.task_id,
                result=AttemptResult.NO_ANSWER,
                minutes=1,
                next_at=task.expires_at - timedelta(seconds=SNOOZE_LIMIT - number),
                by="anna",
                now=world.clock.now(),
            )
    await world.settle(task.expires_at - timedelta(seconds=1))
    assert await world.counts() == (0, 0, 1, 0)
    world.clock.set(task.expires_at)
    assert await world.counts() == (0, 0, 0, 1)
    await world.settle()
    assert await world.counts() == (0, 0, 1, 0)
    old, new = await world.tasks(patient)
    assert (old.outcome, new.escalation, new.due_at) == ("expired", 1, old.expires_at)


async def test_task_out_of_time_is_escalated(world: World, patient: uuid.UUID) -> None:
    await world.clinic()
    await world.visit(patient)
    await world.settle(DUE)
    await world.settle(DUE + 100 * DAY)
    rows = await world.tasks(patient)
    assert [row.outcome for row in rows] == ["expired", "expired", "expired", None]
    assert [row.escalation for row in rows] == [0, 1, 2, 3]
    # A jump over a hundred days decides as if each day had passed.
    assert [row.opened_at for row in rows] == [DUE + n * 30 * DAY for n in range(4)]
    assert await world.counts() == (0, 0, 1, 0)


async def test_release_covers_the_visits_until_then_and_no_later_one(
    world: World, patient: uuid.UUID
) -> None:
    await world.clinic()
    await world.visit(patient)
    await world.settle(DUE)
    await world.release(patient)
    await world.settle()
    (task,) = await world.tasks(patient)
    assert task.outcome == "released"
    assert await world.counts() == (1, 0, 0, 0)
    await world.visit(patient, DUE + 3 * DAY)
    await world.settle(DUE + 5 * DAY)
    assert await world.counts() == (0, 0, 1, 0)


@pytest.mark.parametrize("by_task", [True, False])
async def test_who_opted_out_refuses_every_message_to_come(
    world: World, patient: uuid.UUID, *, by_task: bool
) -> None:
    await world.clinic()
    await world.visit(patient)
    await world.settle(DUE)
    if by_task:
        (task,) = await world.tasks(patient)
        async with world.app.transaction([world.clinic_id]) as connection:
            release = usecases.Release(ReleaseReason.OPTED_OUT, "doctor", "anna")
            await usecases.release_by_task(
                connection,
                world.clinic_id,
                task.task_id,
                release,
                minutes=1,
                now=world.clock.now(),
            )
    else:
        await world.release(patient, ReleaseReason.OPTED_OUT)
    await world.visit(patient, DUE + 3 * DAY)
    rows = await world.run("SELECT purpose, channel, state FROM consent")
    assert {(row.purpose, row.channel) for row in rows} == {
        (purpose, channel) for purpose in Purpose for channel in Channel
    }
    assert {row.state for row in rows} == {"refused"}
    async with world.app.transaction([world.clinic_id]) as connection:
        ledger = await verified_ledger(connection, world.clinic_id, patient)
    assert (ledger.length, ledger.broken_at) == (len(rows), None)


async def test_other_releases_refuse_nothing(world: World, patient: uuid.UUID) -> None:
    await world.release(patient)
    assert not await world.run("SELECT FROM consent")


async def test_release_ends_scheduled_messages_with_their_reason(
    world: World, patient: uuid.UUID
) -> None:
    for state in ("scheduled", "sent"):
        await world.run(
            """
            INSERT INTO message (clinic_id, message_id, patient_id, journey, step, subject_id,
                occurrence, legal_class, state, due_at, expires_at)
            VALUES (:clinic_id, :id, :patient, 'follow-up', 'csat', :id, '', 'care', :state,
                :due, :expires)
            """,
            id=uuid.uuid4(),
            patient=patient,
            state=state,
            due=DONE + DAY,
            expires=DONE + 3 * DAY,
        )
    await world.release(patient)
    rows = await world.run("SELECT state, reason, decision FROM message ORDER BY state")
    assert [(row.state, row.reason) for row in rows] == [("dropped", "released"), ("sent", None)]
    assert rows[0].decision["checks"][0]["detail"] == "released: moved_away"


@pytest.mark.parametrize(
    ("legal_class", "waiting_for", "reason", "state", "told"),
    [
        ("care", "answer", ReleaseReason.MOVED_AWAY, "uncertain", 1),
        ("care", "provider", ReleaseReason.MOVED_AWAY, "dropped", 0),
        ("service", None, ReleaseReason.MOVED_AWAY, "scheduled", 0),
        ("service", None, ReleaseReason.DIED, "dropped", 0),
        ("service", None, ReleaseReason.OPTED_OUT, "dropped", 0),
        ("service", "answer", ReleaseReason.OPTED_OUT, "uncertain", 1),
    ],
)
async def test_release_tells_of_doubt_and_spares_what_is_said_of_an_appointment(
    world: World,
    patient: uuid.UUID,
    legal_class: str,
    waiting_for: str | None,
    reason: ReleaseReason,
    state: str,
    told: int,
) -> None:
    times = {"due": DONE + DAY, "expires": DONE + 3 * DAY}
    waits = {"waiting_for": waiting_for, "retry_at": DONE + DAY if waiting_for else None}
    await world.run(
        """
        INSERT INTO message (clinic_id, message_id, patient_id, journey, step, subject_id, occurrence,
            legal_class, state, due_at, expires_at, channel, waiting_for, retry_at, calls)
        VALUES (:clinic_id, :id, :patient, 'follow-up', 'csat', :id, '', :legal_class, 'scheduled',
            :due, :expires, 'sms', :waiting_for, :retry_at, 1)
        """,
        **{"id": uuid.uuid4(), "patient": patient, "legal_class": legal_class, **times, **waits},
    )
    await world.release(patient, reason)
    assert not await world.tasks(patient)
    (message,) = await world.run("SELECT state FROM message")
    failed = await world.run("SELECT event_id FROM outbox WHERE topic = 'message.failed'")
    assert (message.state, len(failed)) == (state, told)


async def test_erased_patient_is_released_and_never_gets_a_task(
    world: World, patient: uuid.UUID
) -> None:
    await world.clinic()
    await world.visit(patient)
    await world.settle(DUE)
    await world.erase(patient)
    await world.settle()
    assert [row.outcome for row in await world.tasks(patient)] == ["released"]
    async with world.app.transaction([world.clinic_id]) as connection:
        late = NewTask(
            clinic_id=world.clinic_id,
            patient_id=patient,
            reason=Reason.LOW_SCORE,
            subject_id=uuid.uuid4(),
            due_at=DUE,
        )
        assert await open_tasks(connection, [late], DUE) == 0
    await world.visit(patient, DUE + 3 * DAY)
    await world.settle(DUE + 5 * DAY)
    assert await world.counts() == (1, 0, 0, 0)


async def test_history_before_live_from_is_out_of_scope(world: World, patient: uuid.UUID) -> None:
    await world.clinic(live_from=DONE + timedelta(seconds=1))
    await world.visit(patient)
    await world.settle(DUE + DAY)
    assert await world.counts() == (0, 0, 0, 0)
    assert not await world.tasks(patient)


async def test_visit_before_its_clinic_is_judged_once_the_clinic_is_known(
    world: World, patient: uuid.UUID
) -> None:
    await world.visit(patient)
    await world.settle(DUE + timedelta(hours=1))
    assert (await world.statement()).time_zone is None
    await world.clinic()
    await world.settle()
    assert await world.counts() == (0, 0, 1, 0)


async def test_visit_of_today_does_not_hide_the_one_before(
    world: World, patient: uuid.UUID
) -> None:
    await world.clinic()
    await world.visit(patient)
    appointment_id = await world.appointment(patient, DUE + timedelta(hours=9))
    await world.settle(DUE + timedelta(hours=9))
    assert await world.counts() == (0, 1, 0, 0)
    world.clock.set(DUE + timedelta(hours=10))
    visit_id = await world.visit(patient, DUE + timedelta(hours=10))
    await world.appointment(patient, DUE + timedelta(hours=9), "completed", appointment_id)
    assert await world.counts() == (0, 0, 0, 1)
    await world.settle()
    assert await world.counts() == (0, 0, 1, 0)
    (task,) = await world.tasks(patient)
    assert (task.subject_id, task.due_at) == (visit_id, DUE + DAY)
    # Reception books before the end of the day: nobody has to call.
    await world.appointment(patient, DUE + 7 * DAY)
    await world.settle()
    (task,) = await world.tasks(patient)
    assert task.outcome == "booked"
    assert await world.counts() == (0, 1, 0, 0)


async def test_patient_who_comes_daily_is_in_scope_every_moment(
    world: World, patient: uuid.UUID
) -> None:
    await world.clinic()
    for day in range(5):
        done = DONE + day * DAY
        await world.settle(done)
        await world.visit(patient, done)
        await world.appointment(patient, done + DAY)
        if day:
            await world.settle(done + timedelta(hours=1))
            assert await world.counts() == (0, 1, 0, 0)
    # The last appointment is past and nobody said what became of it.
    await world.settle(DONE + 6 * DAY)
    assert await world.counts() == (0, 0, 1, 0)


async def test_second_task_about_the_next_appointment_is_not_opened(
    world: World, patient: uuid.UUID
) -> None:
    await world.clinic()
    await world.visit(patient)
    await world.settle(DUE)
    async with world.app.transaction([world.clinic_id]) as connection:
        another = NewTask(world.clinic_id, patient, Reason.NO_SHOW, uuid.uuid4(), DUE)
        complaint = NewTask(world.clinic_id, patient, Reason.LOW_SCORE, uuid.uuid4(), DUE)
        assert await open_tasks(connection, [another, complaint, complaint], DUE) == 1
    assert [row.reason for row in await world.tasks(patient)] == [
        Reason.NO_NEXT_APPOINTMENT,
        Reason.LOW_SCORE,
    ]


async def test_violations_are_listed_in_pages(world: World) -> None:
    await world.clinic()
    patients = sorted(uuid.uuid4() for _ in range(5))
    for patient in patients:
        await world.visit(patient)
    world.clock.set(DUE)
    first = await world.statement(limit=2)
    assert first.counts.violations == 5
    assert list(first.violating) == patients[:2]
    assert list((await world.statement(after=patients[1])).violating) == patients[2:]


async def test_every_state_is_counted_once_and_clinics_apart(world: World) -> None:
    await world.clinic()
    booked, open_task, released, out_of_scope = (uuid.uuid4() for _ in range(4))
    for patient in (booked, open_task, released):
        await world.visit(patient)
        await world.visit(patient, DONE - DAY)
    await world.visit(out_of_scope, LIVE_FROM - DAY)
    await world.appointment(booked, DUE + DAY)
    await world.appointment(released, DUE + DAY)
    await world.release(released)
    await world.settle(DUE)
    assert await world.counts() == (1, 1, 1, 0)
    other = World(world.app, world.worker, DUE)
    await other.clinic()
    await other.visit(booked)
    assert await other.counts() == (0, 0, 0, 1)


async def test_worker_sees_what_is_due_everywhere_and_nothing_else_unasked(
    world: World, patient: uuid.UUID
) -> None:
    await world.clinic()
    await world.visit(patient)

    async def rows(connection: AsyncConnection, table: str) -> int:
        return int(await connection.scalar(sa.text(f"SELECT count(*) FROM {table}")) or 0)

    async with world.worker.connect() as connection:
        assert await rows(connection, "two_z") > 0
        assert await rows(connection, "visit") == 0
        assert await rows(connection, "release") == 0
    async with world.app.connect() as connection:
        assert await rows(connection, "two_z") == 0
