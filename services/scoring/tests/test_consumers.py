"""Facts and scores end the same, whatever the order, the batches and the repeats."""

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revisit_chassis.db import Database, fetch_value
from revisit_events import testing
from revisit_events.envelope import AnyEvent
from revisit_events.rebuild import BATCH, rebuild
from scoring import store
from scoring.consumers import HANDLERS, PROJECTIONS

Tell = Callable[..., Awaitable[None]]
Work = Callable[..., Awaitable[int]]
NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
PATIENT, OTHER = uuid.UUID(int=7), uuid.UUID(int=8)
# What was told depends on when it was looked at; what stands does not.
PATH_DEPENDENT = {"version", "told_probability"}


async def state(database: Database, work: Work, clinic_id: uuid.UUID) -> dict[str, Any]:
    await work()
    found: dict[str, Any] = {}
    async with database.transaction((clinic_id,)) as connection:
        for table in (
            "clinic",
            "patient",
            "visit_fact",
            "appointment_fact",
            "answer_fact",
            "score",
        ):
            rows = await connection.exec_driver_sql(
                f"SELECT to_jsonb(t) - 'clinic_id' FROM \"{table}\" t"
            )
            found[table] = sorted(
                str({k: v for k, v in row[0].items() if k not in PATH_DEPENDENT}) for row in rows
            )
        found["kpis"] = await store.key_figures(
            connection, clinic_id, NOW - 900 * DAY, NOW + DAY, None, now=NOW, zone=UTC
        )
    return found


def life(clinic_id: uuid.UUID) -> list[AnyEvent]:
    """Events of two patients, corrections and contradictions included."""
    kept, missed, visit = uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=3)
    common: dict[str, Any] = {"clinic_id": clinic_id, "patient_id": PATIENT}
    start = NOW - 200 * DAY
    return [
        testing.clinic_registered(clinic_id=clinic_id, time=start - DAY),
        testing.patient_registered(time=start, birth_year=1950, **common),
        testing.patient_updated(time=start + DAY, birth_year=1990, **common),
        testing.appointment_booked(
            time=start, appointment_id=kept, starts_at=start + 2 * DAY, **common
        ),
        testing.appointment_rescheduled(
            time=start + DAY, appointment_id=kept, starts_at=start + 3 * DAY, **common
        ),
        testing.visit_completed(
            time=start + 3 * DAY,
            visit_id=visit,
            appointment_id=kept,
            completed_at=start + 3 * DAY,
            outcome="healthy",
            charged_minor=100_000,
            currency="RUB",
            **common,
        ),
        # The same visit again: another end, another outcome.
        testing.visit_completed(
            time=start + 4 * DAY,
            visit_id=visit,
            appointment_id=kept,
            completed_at=start + 3 * DAY + timedelta(hours=2),
            outcome="treated",
            charged_minor=120_000,
            currency="EUR",
            **common,
        ),
        # Marked missed and put right, both after the visit.
        testing.appointment_no_show(time=start + 5 * DAY, appointment_id=kept, **common),
        testing.appointment_no_show_reversed(time=start + 6 * DAY, appointment_id=kept, **common),
        testing.appointment_booked(
            time=start + 5 * DAY, appointment_id=missed, starts_at=start + 9 * DAY, **common
        ),
        testing.appointment_no_show(time=start + 10 * DAY, appointment_id=missed, **common),
        testing.appointment_no_show_reversed(
            time=start + 11 * DAY, appointment_id=missed, **common
        ),
        testing.appointment_cancelled(time=start + 12 * DAY, appointment_id=missed, **common),
        testing.survey_answered(
            time=start + 5 * DAY, kind="csat", score=2, visit_id=visit, **common
        ),
        testing.link_issued(time=start + 4 * DAY, subject_id=visit, **common),
        # A visit first told of one patient, then of another.
        testing.visit_completed(
            time=start + 20 * DAY,
            clinic_id=clinic_id,
            visit_id=uuid.UUID(int=4),
            patient_id=PATIENT,
            completed_at=start + 20 * DAY,
        ),
        testing.visit_completed(
            time=start + 21 * DAY,
            clinic_id=clinic_id,
            visit_id=uuid.UUID(int=4),
            patient_id=OTHER,
            completed_at=start + 20 * DAY,
        ),
    ]


def under(clinic_id: uuid.UUID, events: list[AnyEvent]) -> list[AnyEvent]:
    """The same events of another clinic: ids repeat across clinics on purpose."""
    kept = ("id", "source", "time", "data", "subject", "sequence")
    return [
        type(event)(**{name: getattr(event, name) for name in kept} | {"clinic_id": clinic_id})
        for event in events
    ]


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), is_erased=st.booleans())
async def test_any_interleaving_and_duplication_of_a_life_gives_the_same_state(
    database: Database, tell: Tell, work: Work, data: st.DataObject, is_erased: bool
) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()
    one = life(first)
    if is_erased:
        one.append(testing.patient_erased(clinic_id=first, patient_id=PATIENT, time=NOW - DAY))
    await tell(*one)
    other = under(second, one)
    order = data.draw(st.permutations(range(len(other))))
    repeats = data.draw(st.lists(st.sampled_from(range(len(other))), max_size=6))
    posted = [other[number] for number in [*order, *repeats]]
    size = data.draw(st.integers(1, len(posted)))
    for start in range(0, len(posted), size):
        await tell(*posted[start : start + size])
        if data.draw(st.booleans()):
            await work()
    expected = await state(database, work, first)
    assert await state(database, work, second) == expected
    assert len(expected["score"]) == (1 if is_erased else 2)


async def test_visit_of_nobody_registered_is_scored(
    database: Database, tell: Tell, work: Work, clinic_id: uuid.UUID
) -> None:
    await tell(
        testing.visit_completed(clinic_id=clinic_id, patient_id=PATIENT, completed_at=NOW - DAY)
    )
    assert len((await state(database, work, clinic_id))["score"]) == 1


async def test_erased_patient_keeps_facts_and_loses_score_and_attributes(
    database: Database, tell: Tell, work: Work, clinic_id: uuid.UUID
) -> None:
    await tell(testing.patient_erased(clinic_id=clinic_id, patient_id=PATIENT, time=NOW - DAY))
    await tell(*life(clinic_id))
    found = await state(database, work, clinic_id)
    assert len(found["score"]) == 1
    assert len(found["visit_fact"]) == 2
    assert "1990" not in str(found["patient"])


async def test_erasure_removes_the_score_at_once(
    database: Database, tell: Tell, work: Work, clinic_id: uuid.UUID
) -> None:
    await tell(*life(clinic_id))
    await work()
    await tell(testing.patient_erased(clinic_id=clinic_id, patient_id=PATIENT))
    async with database.transaction((clinic_id,)) as connection:
        assert await store.score_of(connection, clinic_id, PATIENT) is None


async def test_rebuild_reads_logs_of_several_pages_one_after_another(
    database: Database, tell: Tell
) -> None:
    clinics, visits = [uuid.uuid4(), uuid.uuid4()], 2 * BATCH + 1
    for clinic_id in clinics:
        await tell(
            *(
                testing.visit_completed(clinic_id=clinic_id, visit_id=uuid.uuid4(), time=NOW - DAY)
                for _ in range(visits)
            )
        )
    for _ in range(2):
        for clinic_id in clinics:
            assert await rebuild(database, HANDLERS, PROJECTIONS, clinic_id, NOW) == visits
            async with database.transaction((clinic_id,)) as connection:
                kept = await fetch_value(connection, "SELECT count(*) FROM visit_fact")
            assert kept == visits


async def test_rebuild_from_the_event_log_reproduces_every_figure(
    database: Database, tell: Tell, work: Work, clinic_id: uuid.UUID
) -> None:
    await tell(*life(clinic_id))
    async with database.transaction((clinic_id,)) as connection:
        await connection.exec_driver_sql(
            "INSERT INTO service_rhythm VALUES ($1, 'dental.filling', 400, 20)", (clinic_id,)
        )
        await connection.exec_driver_sql(
            "INSERT INTO average_cheque VALUES ($1, 200000, 20)", (clinic_id,)
        )
    before = await state(database, work, clinic_id)
    count = await rebuild(database, HANDLERS, PROJECTIONS, clinic_id, NOW)
    assert count == len(life(clinic_id))
    # Rhythms stay: without them patients would be judged by defaults until the next refresh.
    assert await state(database, work, clinic_id) == before
    assert "'horizon_days': 400" in str(before["score"])
