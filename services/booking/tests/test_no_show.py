"""The timer: grace, undo, history, erasure, odd reports, and reports that come after it."""

import itertools
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from booking.consumers import HANDLERS
from booking.domain import appointment as rules
from booking.usecases import no_show
from booking.usecases.reports import take_reports
from revisit_chassis.clock import SimulatedClock
from revisit_events import testing
from revisit_events.contracts import AppointmentAnswered
from revisit_events.envelope import AnyEvent, sequence_text

START = datetime(2026, 1, 15, 12, 30, tzinfo=UTC)
DUE = START + timedelta(hours=1)


def event(name: str, at: datetime, **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": uuid.uuid4().hex,
        "source": "//mis",
        "type": f"{name}.v1",
        "time": at.isoformat(),
        "data": {"appointment_id": "A-1", "patient_id": "P-1"} | data,
    }


BOOKED = event(
    "appointment.booked",
    START - timedelta(days=3),
    starts_at=START.isoformat(),
    modality="in_person",
)


async def post(client: httpx.AsyncClient, *events: dict[str, Any]) -> None:
    answer = await client.post(
        "/v1/events",
        json=list(events),
        headers={"Content-Type": "application/cloudevents-batch+json"},
    )
    assert answer.json()["rejected"] == []


async def test_timer_waits_for_the_grace_and_an_arrival_takes_the_no_show_back(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any
) -> None:
    await post(client, BOOKED)
    clock.set(DUE - timedelta(seconds=1))
    await store.run_timer(clock)
    assert await store.status() == "booked"
    clock.set(DUE)
    await store.run_timer(clock)
    assert await store.status() == "no_show"
    ((headers, data),) = await store.published("appointment.no_show")
    assert data["marked_by"] == "system"
    assert headers["ce_time"].startswith("2026-01-15T12:30:00")
    arrived = await client.post("/v1/appointments/A-1/arrival")
    assert arrived.json()["status"] == "arrived"
    await store.run_timer(clock)
    assert len(await store.published("appointment.no_show")) == 1
    assert len(await store.published("appointment.no_show_reversed")) == 1


async def test_timer_leaves_imported_history_alone(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any
) -> None:
    old = datetime(2025, 12, 1, 9, tzinfo=UTC)
    await post(client, event("appointment.booked", old, starts_at=old.isoformat()))
    clock.set(DUE)
    await store.run_timer(clock)
    assert await store.status() == "booked"


async def test_end_before_the_start_does_not_make_a_no_show_in_advance(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any
) -> None:
    ends_at = (START - timedelta(days=2)).isoformat()
    odd = event(
        "appointment.booked",
        START - timedelta(days=3),
        starts_at=START.isoformat(),
        ends_at=ends_at,
    )
    await post(client, odd)
    clock.set(START + timedelta(minutes=5))
    await store.run_timer(clock)
    assert await store.status() == "booked"
    clock.set(DUE)
    await store.run_timer(clock)
    assert await store.status() == "no_show"


async def test_appointment_that_cannot_be_judged_stops_no_other(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = event("appointment.booked", START - timedelta(days=3), starts_at=START.isoformat())
    other["data"]["appointment_id"] = "A-2"
    await post(client, BOOKED, other)
    bad = uuid.uuid5(store.clinic_id, "appointment:A-1")
    missed = rules.miss

    def fails(appointment: Any, *rest: Any) -> Any:
        if appointment.appointment_id == bad:
            raise ValueError
        return missed(appointment, *rest)

    monkeypatch.setattr(no_show, "miss", fails)
    clock.set(DUE)
    await store.run_timer(clock)
    assert await store.status("A-2") == "no_show"
    assert await store.status("A-1") == "booked"


@pytest.mark.parametrize("is_erased_first", [True, False])
async def test_nothing_is_told_of_the_appointments_of_an_erased_patient(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any, *, is_erased_first: bool
) -> None:
    if not is_erased_first:
        await post(client, BOOKED)
    assert (await client.delete("/v1/patients/P-1")).status_code == 204
    if is_erased_first:
        await post(client, BOOKED)
    await store.rows(
        "UPDATE appointment SET move_requested_at = '2026-01-15T09:00:00Z' RETURNING 1"
    )
    clock.set(DUE + timedelta(days=1))
    await store.run_timer(clock)
    assert await store.published("appointment.no_show") == []
    assert (await client.get("/v1/move-requests")).json()["items"] == []


MORNING = START - timedelta(hours=3)


def facts(clinic_id: uuid.UUID) -> dict[str, AnyEvent]:
    """What is reported of one appointment; all of it happened before its start."""
    about: dict[str, Any] = {
        "clinic_id": clinic_id,
        "appointment_id": uuid.UUID(int=1),
        "patient_id": uuid.UUID(int=2),
        "source": "//mis",
    }
    return {
        "booked": testing.appointment_booked(
            time=START - timedelta(days=3), starts_at=START, ends_at=None, **about
        ),
        "confirmed": testing.appointment_confirmed(time=MORNING, **about),
        "moved": testing.appointment_rescheduled(
            time=MORNING + timedelta(minutes=10), starts_at=START + timedelta(days=1), **about
        ),
        "cancelled": testing.appointment_cancelled(time=MORNING + timedelta(minutes=20), **about),
        "visited": testing.visit_completed(time=START - timedelta(minutes=1), **about),
    }


EXPECTED = {
    ("confirmed",): "no_show",
    ("moved",): "booked",
    ("cancelled",): "cancelled",
    ("visited",): "completed",
    ("confirmed", "cancelled"): "cancelled",
    ("confirmed", "moved"): "booked",
    ("moved", "cancelled"): "cancelled",
    ("cancelled", "visited"): "completed",
    ("confirmed", "moved", "cancelled"): "cancelled",
}
ORDERS = [
    (names, order, timer_after)
    for names in EXPECTED
    for order in itertools.permutations(names)
    for timer_after in range(len(order) + 1)
]


@pytest.mark.parametrize(
    ("names", "order", "timer_after"), ORDERS, ids=[f"{'-'.join(o)}@{t}" for _, o, t in ORDERS]
)
async def test_state_is_the_same_whenever_the_timer_ran(
    clock: SimulatedClock,
    store: Any,
    names: tuple[str, ...],
    order: tuple[str, ...],
    timer_after: int,
) -> None:
    known = facts(store.clinic_id)
    clinic = testing.clinic_registered(clinic_id=store.clinic_id, live_from=START - timedelta(9))
    await report(store, clock, clinic, known["booked"])
    clock.set(DUE)
    for place, name in enumerate(order):
        if place == timer_after:
            await store.run_timer(clock)
        await report(store, clock, known[name])
    await store.run_timer(clock)
    rows = await store.rows("SELECT status FROM appointment")
    assert [row.status for row in rows] == [EXPECTED[names]]
    # Whoever follows the topics alone comes to the same end by the same rule.
    told = [
        (event.time_text, sequence_text(event.sequence or 0), event.type)
        for event in (known["booked"], *(known[name] for name in order))
    ] + [
        (headers["ce_time"], headers["ce_sequence"], headers["ce_type"])
        for topic in (
            *("appointment.rescheduled", "appointment.confirmed", "appointment.cancelled"),
            *("appointment.no_show", "visit.completed"),
        )
        for headers, _ in await store.published(topic)
    ]
    status_of = {
        "appointment.rescheduled.v1": "booked",
        "appointment.cancelled.v1": "cancelled",
        "appointment.no_show.v1": "no_show",
        "visit.completed.v1": "completed",
    }
    assert status_of[max(told)[2]] == EXPECTED[names]


async def report(store: Any, clock: SimulatedClock, *events: AnyEvent) -> None:
    async with store.database.transaction([store.clinic_id]) as connection:
        await take_reports(connection, events, clock.now())


async def test_patients_own_cancellation_in_time_stands_though_it_came_after_the_timer(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any
) -> None:
    await post(client, BOOKED)
    clock.set(DUE)
    await store.run_timer(clock)
    canonical = uuid.uuid5(store.clinic_id, "appointment:A-1")
    for at, reason, status in (
        (START + timedelta(minutes=1), "illness", "no_show"),
        (MORNING, "Заболела, не смогу прийти", "cancelled"),
    ):
        answered = testing.appointment_answered(
            clinic_id=store.clinic_id,
            time=at,
            appointment_id=canonical,
            patient_id=uuid.uuid5(store.clinic_id, "patient:P-1"),
            answer="cancel",
            reason=reason,
        )
        async with store.database.transaction([store.clinic_id]) as connection:
            await HANDLERS[AppointmentAnswered](connection, [answered], clock.now())
        assert await store.status() == status
    # Words of the patient's own stay where they were written.
    ((_, data),) = await store.published("appointment.cancelled")
    assert data["reason_code"] == "not_given"
