"""The queue is worked off, time is followed, changes alone are told, and one bad patient harms no other."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_events import testing
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.feed import FLOOD_SECONDS, FeedStatus
from scoring import store
from scoring.metrics import SET_ASIDE
from scoring.rescoring import Rescore
from scoring.rhythm import FEWEST, RefreshRhythms
from scoring.store import Score

Tell = Callable[..., Awaitable[None]]
Work = Callable[..., Awaitable[int]]
NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
PATIENT = uuid.UUID(int=7)


@pytest.fixture
def score(database: Database, clinic_id: uuid.UUID) -> Callable[..., Awaitable[Score | None]]:
    async def read(patient_id: uuid.UUID = PATIENT) -> Score | None:
        async with database.transaction((clinic_id,)) as connection:
            return await store.score_of(connection, clinic_id, patient_id)

    return read


Read = Callable[..., Awaitable[Score]]


@pytest.fixture
def published(
    database: Database, clinic_id: uuid.UUID
) -> Callable[[], Awaitable[list[dict[str, Any]]]]:
    async def read() -> list[dict[str, Any]]:
        async with database.transaction((clinic_id,)) as connection:
            rows = await connection.exec_driver_sql(
                "SELECT topic, event_id, data FROM outbox WHERE clinic_id = $1 ORDER BY position",
                (clinic_id,),
            )
            return [{"topic": row.topic, "id": row.event_id} | json.loads(row.data) for row in rows]

    return read


Published = Callable[[], Awaitable[list[dict[str, Any]]]]


def visit(clinic_id: uuid.UUID, days_ago: float = 1, **data: Any) -> Any:
    at = NOW - days_ago * DAY
    given: dict[str, Any] = {"patient_id": PATIENT, "completed_at": at, "charged_minor": None}
    return testing.visit_completed(clinic_id=clinic_id, time=at, **(given | data))


async def test_queue_is_worked_off_once(
    tell: Tell, work: Work, score: Read, clinic_id: uuid.UUID, worker_database: Database
) -> None:
    await tell(visit(clinic_id), visit(clinic_id, 40))
    assert await work() > 0
    assert await work() == 0
    found = await score()
    assert (found.visits, found.recency, found.frequency, found.monetary) == (2, 5, 2, None)
    kind = Rescore(worker_database, FeedStatus(BrokerWatch(KafkaSettings("127.0.0.1:1"))))
    due_at = await kind.next_due_at()
    assert due_at is None or due_at > NOW


async def test_changes_wait_amid_a_flood_and_no_longer(
    tell: Tell,
    score: Callable[..., Awaitable[Score | None]],
    clinic_id: uuid.UUID,
    worker_database: Database,
) -> None:
    await tell(visit(clinic_id))
    feed = FeedStatus(BrokerWatch(KafkaSettings("127.0.0.1:1")))
    kind, clock = Rescore(worker_database, feed), SimulatedClock(NOW)
    feed.polled(4_000, is_full=True, has_more=True)
    await kind.run_due(clock)
    assert await score() is None
    await asyncio.sleep(FLOOD_SECONDS)
    while await kind.run_due(clock):
        pass
    found = await score()
    assert found is not None
    assert found.visits == 1


async def test_first_low_risk_is_no_news_and_no_change_is_told_twice(
    tell: Tell, work: Work, clinic_id: uuid.UUID, published: Published
) -> None:
    await tell(visit(clinic_id, outcome="treated"))
    await work()
    told = await published()
    assert [(event["axis"], event.get("from"), event["to"]) for event in told] == [
        ("life_situation", None, "other"),
        ("treatment_state", None, "treated"),
    ]
    # Facts that change nothing of what was told.
    await tell(testing.patient_updated(clinic_id=clinic_id, patient_id=PATIENT, birth_year=1980))
    await work()
    assert await published() == told


async def test_years_of_silence_are_told_step_by_step_and_end(
    tell: Tell, work: Work, score: Read, clinic_id: uuid.UUID, published: Published
) -> None:
    await tell(visit(clinic_id, 0, outcome="treated"))
    for weeks in range(0, 160, 2):
        await work(NOW + weeks * 7 * DAY)
    events = await published()
    risks = [event for event in events if event["topic"] == "patient.churn_risk_changed"]
    probabilities = [event["probability"] for event in risks]
    assert probabilities == sorted(set(probabilities))
    assert all(
        second - first >= 0.0499 or low["band"] != high["band"]
        for first, second, low, high in zip(
            probabilities, probabilities[1:], risks, risks[1:], strict=False
        )
    )
    assert {event["band"] for event in risks} == {"low", "medium", "high"}
    assert {event["horizon_days"] for event in risks} == {180}
    assert [e["to"] for e in events if e.get("axis") == "treatment_state"] == ["treated", "lost"]
    found = await score()
    assert (found.probability, found.reasons) == (0.99, ["overdue_service_rhythm"])
    assert (found.recency, found.frequency) == (1, 1)
    ids = [event["id"] for event in events]
    assert len(ids) == len(set(ids)) < 40
    # Time changes nothing any more, so the patient is left in peace.
    await work(NOW + 2000 * DAY)
    assert await score() == found


async def test_end_of_a_booking_is_noticed(
    tell: Tell, work: Work, score: Read, clinic_id: uuid.UUID
) -> None:
    await tell(
        visit(clinic_id, 500),
        testing.appointment_booked(
            clinic_id=clinic_id, patient_id=PATIENT, starts_at=NOW + 3 * DAY, time=NOW - DAY
        ),
    )
    await work()
    assert (await score()).reasons[0] == "next_appointment_booked"
    await work(NOW + 4 * DAY)
    found = await score()
    assert (found.treatment_state, found.reasons) == ("lost", ["overdue_service_rhythm"])


async def test_kept_appointment_is_neither_ahead_nor_missed(
    tell: Tell, work: Work, score: Read, clinic_id: uuid.UUID
) -> None:
    appointment = uuid.uuid4()
    common: dict[str, Any] = {
        "clinic_id": clinic_id,
        "patient_id": PATIENT,
        "appointment_id": appointment,
    }
    await tell(
        testing.appointment_booked(starts_at=NOW + DAY, time=NOW - 5 * DAY, **common),
        testing.appointment_no_show(time=NOW - DAY, **common),
        visit(clinic_id, 2, appointment_id=appointment),
    )
    await work()
    assert (await score()).reasons == ["interval_running"]


async def test_money_keeps_to_the_clinics_currency(
    tell: Tell, work: Work, score: Read, clinic_id: uuid.UUID
) -> None:
    await tell(
        visit(clinic_id, 1, charged_minor=100, currency=None),
        visit(clinic_id, 2, charged_minor=1000, currency="RUB"),
        visit(clinic_id, 3, charged_minor=77, currency="EUR"),
    )
    await work()
    found = await score()
    assert (found.charged_minor, found.currency) == (100, None)
    await tell(testing.clinic_registered(clinic_id=clinic_id, currency="RUB"))
    await work()
    found = await score()
    assert (found.charged_minor, found.currency) == (1100, "RUB")


async def test_age_and_midnight_are_the_clinics(
    tell: Tell, work: Work, score: Read, clinic_id: uuid.UUID
) -> None:
    await tell(
        testing.clinic_registered(clinic_id=clinic_id, time_zone="Asia/Vladivostok"),
        testing.patient_registered(clinic_id=clinic_id, patient_id=PATIENT, birth_year=1967),
        visit(clinic_id, 1),
    )
    # In Vladivostok the new year begins at 14:00 UTC.
    await work(datetime(2026, 12, 31, 13, 59, tzinfo=UTC))
    assert (await score()).life_situation == "other"
    await work(datetime(2026, 12, 31, 14, 0, tzinfo=UTC))
    assert (await score()).life_situation == "elderly_chronic"


async def overflow(database: Database, clinic_id: uuid.UUID, patient_id: uuid.UUID) -> None:
    """Stores visits whose sum no column holds, as no contract lets through."""
    async with database.transaction((clinic_id,)) as connection:
        await connection.exec_driver_sql(
            "INSERT INTO visit_fact (clinic_id, visit_id, patient_id, kind, outcome, completed_at, "
            "charged_minor) SELECT $1, gen_random_uuid(), $2, 'procedure', 'treated', $3, "
            "9000000000000000000 FROM generate_series(1, 2)",
            (clinic_id, patient_id, NOW - DAY),
        )
        await connection.exec_driver_sql(
            "INSERT INTO rescore (clinic_id, patient_id) VALUES ($1, $2)", (clinic_id, patient_id)
        )


async def test_patient_who_cannot_be_scored_is_set_aside_and_harms_no_other(
    tell: Tell, work: Work, score: Read, clinic_id: uuid.UUID, database: Database
) -> None:
    bad = uuid.UUID(int=666)
    counted = SET_ASIDE.labels("changed")._value.get()
    await overflow(database, clinic_id, bad)
    await tell(visit(clinic_id))
    await work()
    assert (await score()).visits == 1
    assert await score(bad) is None
    assert SET_ASIDE.labels("changed")._value.get() == counted + 1
    assert await work() == 0
    async with database.transaction((clinic_id,)) as connection:
        await connection.exec_driver_sql(
            "UPDATE visit_fact SET charged_minor = 1 WHERE clinic_id = $1", (clinic_id,)
        )
    await work(NOW + 2 * DAY)
    assert (await score(bad)).visits > 0


async def test_aged_patient_who_cannot_be_scored_is_tried_again_the_next_day(
    tell: Tell, work: Work, score: Read, clinic_id: uuid.UUID, database: Database
) -> None:
    await tell(visit(clinic_id, patient_id=PATIENT))
    await work()
    await overflow(database, clinic_id, PATIENT)
    counted = SET_ASIDE.labels("aged")._value.get()
    await work()
    before = await score()
    later = NOW + 400 * DAY
    await work(later)
    assert SET_ASIDE.labels("aged")._value.get() == counted + 1
    assert await score() == before
    async with database.transaction((clinic_id,)) as connection:
        await connection.exec_driver_sql(
            "DELETE FROM visit_fact WHERE clinic_id = $1 AND charged_minor IS NOT NULL",
            (clinic_id,),
        )
    await work(later + 2 * DAY)
    assert (await score()).treatment_state == "lost"


async def refreshed(refresh: RefreshRhythms, now: datetime = NOW) -> None:
    """Finds the habits of every clinic that is due."""
    while await refresh.run_due(SimulatedClock(now)):
        pass


async def test_rhythm_and_cheque_rescore_whom_they_concern_and_end_with_their_data(
    tell: Tell,
    score: Read,
    work: Work,
    clinic_id: uuid.UUID,
    database: Database,
    worker_database: Database,
) -> None:
    await tell(testing.clinic_registered(clinic_id=clinic_id, currency="RUB", time=NOW - 30 * DAY))
    pairs = [
        visit(
            clinic_id,
            days_ago,
            visit_id=uuid.UUID(int=number * 2 + place + 1),
            patient_id=uuid.UUID(int=100 + number),
            service_code="massage",
            charged_minor=199_000 + number,
        )
        for number in range(FEWEST)
        for place, days_ago in enumerate((35, 5))
    ]
    await tell(*pairs, visit(clinic_id, 60, service_code="massage", charged_minor=600_000))
    await work()
    before = await score()
    assert (before.horizon_days, before.monetary) == (180, None)

    refresh = RefreshRhythms(worker_database)
    await refreshed(refresh)
    assert await work() >= FEWEST + 1
    after = await score()
    # Thirty days are typical now, and three average cheques of 210,000 (199,009 with the one of 600,000).
    assert (after.horizon_days, after.monetary, after.band) == (30, 2, "high")
    assert (await refresh.next_due_at() or NOW) > NOW

    await refreshed(refresh, NOW + 7 * DAY)
    assert await work() == 0

    # Corrections move visits away: the rhythm falls below its fewest gaps, and is gone.
    later = NOW + 14 * DAY
    await tell(
        *(
            testing.visit_completed(
                clinic_id=clinic_id,
                visit_id=one.data.visit_id,
                patient_id=one.data.patient_id,
                service_code="dental.filling",
                completed_at=one.data.completed_at,
                time=NOW,
            )
            for one in pairs[:2]
        )
    )
    await refreshed(refresh, later)
    await work(later)
    assert (await score()).horizon_days == 180
    async with database.transaction((clinic_id,)) as connection:
        found = await connection.exec_driver_sql("SELECT service_code FROM service_rhythm")
        assert found.all() == []


def median_after_kaplan_and_meier(gaps: Sequence[tuple[int, bool]]) -> int | None:
    """The textbook's product, day by day, over (days, whether the patient returned)."""
    share = 1.0
    for day in sorted({days for days, returned in gaps if returned}):
        at_risk = sum(days >= day for days, _ in gaps)
        share *= 1 - sum(one == (day, True) for one in gaps) / at_risk
        if share <= 0.5:
            return day
    return None


@pytest.mark.parametrize("seed", range(6))
async def test_rhythm_is_the_median_of_kaplan_and_meier(
    seed: int, tell: Tell, clinic_id: uuid.UUID, database: Database, worker_database: Database
) -> None:
    random = Random(seed)
    await tell(testing.clinic_registered(clinic_id=clinic_id, time=NOW - 400 * DAY))
    gaps: dict[str, list[tuple[int, bool]]] = {"massage": [], "filling": []}
    visits: list[Any] = []
    for patient in range(120):
        service = random.choice(list(gaps))
        days_ago = random.randint(1, 300)
        while True:
            visits.append(
                visit(
                    clinic_id,
                    days_ago,
                    visit_id=uuid.UUID(int=len(visits) + 1),
                    patient_id=uuid.UUID(int=patient + 1),
                    service_code=service,
                )
            )
            following = days_ago - random.randint(1, 20 + 100 * (service == "filling"))
            returns = following > 0 and random.random() < 0.75
            gaps[service].append((days_ago - following if returns else days_ago, returns))
            if not returns:
                break
            days_ago = following
    await tell(*visits)
    await refreshed(RefreshRhythms(worker_database))
    async with database.transaction((clinic_id,)) as connection:
        rows = await connection.exec_driver_sql(
            "SELECT service_code, interval_days, gaps FROM service_rhythm"
        )
        found = {row.service_code: (row.interval_days, row.gaps) for row in rows}
    expected = {
        service: (median, sum(returned for _, returned in seen))
        for service, seen in gaps.items()
        if (median := median_after_kaplan_and_meier(seen)) is not None
    }
    assert found == expected
    assert found


async def test_young_clinic_does_not_take_everybody_for_late(
    tell: Tell, work: Work, score: Read, clinic_id: uuid.UUID, worker_database: Database
) -> None:
    # Live for six weeks: those who returned did so within them, and four of five may still come.
    await tell(testing.clinic_registered(clinic_id=clinic_id, time=NOW - 42 * DAY))
    await tell(
        *(
            visit(
                clinic_id,
                days_ago,
                visit_id=uuid.UUID(int=number * 2 + place + 1),
                patient_id=uuid.UUID(int=100 + number),
                service_code="massage",
            )
            for number in range(5 * FEWEST)
            for place, days_ago in enumerate((40, 30) if number % 5 == 0 else (40,))
        )
    )
    await refreshed(RefreshRhythms(worker_database))
    await work()
    silent = await score(uuid.UUID(int=101))
    assert (silent.horizon_days, silent.band) == (180, "low")
