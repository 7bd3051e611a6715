import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_events import testing
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.catalog import CATALOG
from revisit_events.consumer import FeedStatus, handle
from revisit_events.envelope import AnyEvent
from revisit_events.inbox import Months, claim
from revisit_events.rebuild import rebuild
from scoring import store
from scoring.consumers import HANDLERS
from scoring.rescoring import Rescore, rescore
from scoring.tables import PROJECTIONS

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ORDER = [contract for contract in CATALOG.values() if contract in HANDLERS]
PATIENT = uuid.UUID(int=7)


async def apply(database: Database, events: Sequence[AnyEvent]) -> None:
    await Months(database).ensure([event.time for event in events])
    async with database.transaction({event.clinic_id for event in events}) as connection:
        await handle(connection, HANDLERS, ORDER, await claim(connection, events), NOW)


async def state(database: Database, clinic_id: uuid.UUID) -> dict[str, Any]:
    found: dict[str, Any] = {}
    async with database.transaction((clinic_id,)) as connection:
        await rescore(connection, [(clinic_id, PATIENT, NOW)])
        for table in ("patient", "visit_fact", "appointment_fact", "answer_fact", "score"):
            rows = await connection.exec_driver_sql(
                f"SELECT to_jsonb(t) - 'clinic_id' FROM \"{table}\" t"
            )
            found[table] = sorted(
                str({k: v for k, v in row[0].items() if k != "version"}) for row in rows
            )
        figures = await store.key_figures(
            connection, clinic_id, NOW - 900 * DAY, NOW + DAY, None, NOW
        )
        found["kpis"] = [(kpi.key, kpi.found) for kpi in figures]
    return found


def life(clinic_id: uuid.UUID) -> list[AnyEvent]:
    """A patient's events, corrections and contradictions included."""
    kept, missed, visit = uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=3)
    common: dict[str, Any] = {"clinic_id": clinic_id, "patient_id": PATIENT}
    start = NOW - 200 * DAY
    return [
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
            **common,
        ),
        testing.visit_completed(
            time=start + 4 * DAY,
            visit_id=visit,
            appointment_id=kept,
            completed_at=start + 3 * DAY,
            outcome="treated",
            **common,
        ),
        testing.appointment_booked(
            time=start + 5 * DAY, appointment_id=missed, starts_at=start + 9 * DAY, **common
        ),
        testing.appointment_no_show(time=start + 10 * DAY, appointment_id=missed, **common),
        testing.appointment_no_show_reversed(
            time=start + 11 * DAY, appointment_id=missed, **common
        ),
        testing.appointment_cancelled(time=start + 12 * DAY, appointment_id=missed, **common),
        testing.survey_answered(time=start + 5 * DAY, kind="csat", score=2, **common),
    ]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
async def test_any_interleaving_and_duplication_of_a_life_gives_the_same_state(
    database: Database, data: st.DataObject
) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()
    # One list of events under two clinics: ids repeat across clinics on purpose.
    one = life(first)
    await apply(database, one)
    ids = {event.id: number for number, event in enumerate(one)}
    other = [
        type(event)(
            **{
                name: getattr(event, name)
                for name in ("id", "source", "time", "data", "subject", "sequence")
            }
            | {"clinic_id": second}
        )
        for event in one
    ]
    order = data.draw(st.permutations(range(len(other))))
    repeats = data.draw(st.lists(st.sampled_from(range(len(other))), max_size=6))
    posted = [other[number] for number in [*order, *repeats]]
    size = data.draw(st.integers(1, len(posted)))
    for start in range(0, len(posted), size):
        await apply(database, posted[start : start + size])
    assert len(ids) == len(one)
    assert await state(database, first) == await state(database, second)


async def test_visit_of_nobody_registered_is_scored(
    database: Database, clinic_id: uuid.UUID
) -> None:
    await apply(
        database,
        [testing.visit_completed(clinic_id=clinic_id, patient_id=PATIENT, completed_at=NOW - DAY)],
    )
    found = await state(database, clinic_id)
    assert len(found["score"]) == 1


async def test_erased_patient_keeps_facts_and_loses_score_and_attributes_in_any_order(
    database: Database, clinic_id: uuid.UUID
) -> None:
    await apply(
        database,
        [testing.patient_erased(clinic_id=clinic_id, patient_id=PATIENT, time=NOW - DAY)],
    )
    await apply(database, life(clinic_id))
    found = await state(database, clinic_id)
    assert found["score"] == []
    assert len(found["visit_fact"]) == 1
    assert "1990" not in str(found["patient"])


async def test_rebuild_from_the_event_log_reproduces_every_figure(
    database: Database, clinic_id: uuid.UUID
) -> None:
    await apply(database, life(clinic_id))
    before = await state(database, clinic_id)
    count = await rebuild(database, HANDLERS, PROJECTIONS, clinic_id, NOW)
    assert count == len(life(clinic_id))
    assert await state(database, clinic_id) == before


async def test_no_show_rate_counts_completed_and_missed_only(
    database: Database, clinic_id: uuid.UUID
) -> None:
    common: dict[str, Any] = {"clinic_id": clinic_id, "time": NOW - DAY}
    appointments = [uuid.uuid4() for _ in range(4)]
    await apply(
        database,
        [
            *(testing.appointment_no_show(appointment_id=a, **common) for a in appointments[:1]),
            *(
                testing.visit_completed(appointment_id=a, completed_at=NOW - DAY, **common)
                for a in appointments[1:3]
            ),
            testing.appointment_cancelled(appointment_id=appointments[3], **common),
        ],
    )
    async with database.transaction((clinic_id,)) as connection:
        figures = await store.key_figures(connection, clinic_id, NOW - 30 * DAY, NOW, None, NOW)
    rate = next(figure for figure in figures if figure.key == "no_show_rate").found
    assert (rate.value, rate.n) == (1 / 3, 3)


async def test_rescoring_works_off_the_queue_once(
    database: Database, worker_database: Database, clinic_id: uuid.UUID
) -> None:
    await apply(database, life(clinic_id))
    work = Rescore(worker_database, FeedStatus(BrokerWatch(KafkaSettings("127.0.0.1:1"))))
    clock = SimulatedClock(NOW)
    while await work.run_due(clock):
        pass
    due_at = await work.next_due_at()
    assert due_at is None or due_at > NOW
    async with database.transaction((clinic_id,)) as connection:
        row = await store.score_of(connection, PATIENT)
    assert row is not None
    assert row.visits == 1
