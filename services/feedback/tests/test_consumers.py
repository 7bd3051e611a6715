"""What feedback consumes: all of it, in any order, once."""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedback.consumers import HANDLERS, PROJECTIONS
from feedback.surveys.store import hash_of
from revisit_events.catalog import CATALOG, types_consumed_by
from revisit_events.envelope import AnyEvent
from revisit_events.rebuild import rebuild
from revisit_events.testing import (
    NOON,
    clinic_registered,
    link_issued,
    patient_erased,
    token_revoked,
    visit_completed,
)

TokenMaker = Callable[..., dict[str, str]]
StoreMaker = Callable[[uuid.UUID], Any]
STATE = {
    "clinic": "SELECT name, language, live_from FROM clinic",
    "visit": "SELECT visit_id, patient_id, practitioner_id, completed_at FROM visit ORDER BY 1",
    "link": "SELECT link_id, patient_id, visit_id, expires_at FROM survey_link ORDER BY 1",
    "erased": "SELECT patient_id, erased_at FROM erased_patient ORDER BY 1",
    "revoked": "SELECT jti, expires_at FROM revoked_token WHERE clinic_id = :clinic_id ORDER BY 1",
}


def test_every_consumed_event_has_a_handler_and_no_other() -> None:
    handled = {contract.TYPE for contract in HANDLERS}
    assert handled == types_consumed_by("feedback")
    assert handled <= set(CATALOG)


@dataclass(frozen=True, slots=True)
class Told:
    """One event: what it tells, of whom and when; equal moments and equal subjects on purpose."""

    kind: str
    minute: int
    patient: int
    visit: int


TOLD = st.builds(
    Told,
    kind=st.sampled_from(["clinic", "visit", "link", "erased", "token"]),
    minute=st.integers(0, 4),
    patient=st.integers(1, 3),
    visit=st.integers(1, 4),
)


def events_of(clinic_id: uuid.UUID, told: Sequence[Told]) -> list[AnyEvent]:
    return [event_of(clinic_id, number, one) for number, one in enumerate(told)]


def event_of(clinic_id: uuid.UUID, number: int, told: Told) -> AnyEvent:
    own, patient_id = uuid.UUID(int=number), uuid.UUID(int=told.patient)
    time = NOON + timedelta(minutes=told.minute)
    given: dict[str, Any] = {"clinic_id": clinic_id, "time": time, "id": f"e{number}"}
    match told.kind:
        case "clinic":
            return clinic_registered(name=f"Clinic {number}", **given)
        case "visit":
            visit_id = uuid.UUID(int=told.visit)
            return visit_completed(
                visit_id=visit_id, patient_id=patient_id, practitioner_id=own, **given
            )
        case "link":
            return link_issued(
                link_id=own,
                subject_id=own,
                patient_id=patient_id,
                token_hash=hash_of(f"{clinic_id}{number}"),
                **given,
            )
        case "erased":
            return patient_erased(patient_id=patient_id, **given)
        case _:
            return token_revoked(jti=f"jti {number}", **given)


async def state(store: Any) -> dict[str, list[Any]]:
    return {
        name: list(await store.rows(statement, clinic_id=store.clinic_id))
        for name, statement in STATE.items()
    }


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), told=st.lists(TOLD, min_size=2, max_size=20))
async def test_any_order_and_repetition_ends_in_the_same_state(
    store_of: StoreMaker, data: st.DataObject, told: list[Told]
) -> None:
    one, other = store_of(uuid.uuid4()), store_of(uuid.uuid4())
    await one.tell(*events_of(one.clinic_id, told))
    events = events_of(other.clinic_id, told)
    posted = [*data.draw(st.permutations(events)), *data.draw(repeats_of(events))]
    size = data.draw(st.integers(1, len(posted)))
    for start in range(0, len(posted), size):
        await other.tell(*posted[start : start + size])
    assert await state(other) == await state(one)


def repeats_of(told: Sequence[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(told), max_size=6)


CASES = {
    "reviews": """
        SELECT review_id, rating_1_to_5, detected_at, low_detected_at, text IS NULL AS is_empty
        FROM review ORDER BY 1""",
    "cases": """
        SELECT origin, severity, opened_at, due_at, patient_id, text IS NULL AS is_empty FROM complaint
        ORDER BY opened_at, severity""",
    "responses": "SELECT link_id, csat, nps, comment IS NULL AS is_empty FROM survey_response ORDER BY 1",
}


def review_event(number: int, hour: int, rating: int, patient_id: uuid.UUID | None) -> Any:
    time = (NOON + timedelta(hours=hour)).isoformat()
    return {
        "specversion": "1.0",
        "id": f"review-{number}-{hour}",
        "source": "//reviews.example",
        "type": "review.posted.v1",
        "subject": str(uuid.UUID(int=number)),
        "time": time,
        "data": {
            "review_id": str(uuid.UUID(int=number)),
            "patient_id": patient_id and str(patient_id),
            "platform": "2gis",
            "rating_1_to_5": rating,
            "published_at": NOON.isoformat(),
            "text": "Долго ждал",
        },
    }


Step = Callable[[], Awaitable[None]]


def steps_of(client: httpx.AsyncClient, headers: dict[str, str], store: Any) -> list[Step]:
    """What a clinic's patients did: what is consumed and what comes over HTTP."""
    author, visit_id, link_id = uuid.UUID(int=51), uuid.UUID(int=61), uuid.UUID(int=71)
    clinic = store.clinic_id
    secret = f"{clinic}-token"

    async def post(event: Any) -> None:
        kind = {"Content-Type": "application/cloudevents+json"}
        answer = await client.post("/v1/events", json=event, headers=headers | kind)
        assert answer.status_code == 202

    async def answer(data: dict[str, str]) -> None:
        await store.tell(link)
        assert (await client.post(f"/s/{secret}", data=data)).status_code == 200

    link = link_issued(
        clinic_id=clinic,
        link_id=link_id,
        subject_id=visit_id,
        patient_id=uuid.UUID(int=81),
        token_hash=hash_of(secret),
        expires_at=store.clock.now() + timedelta(days=1),
    )
    visit = visit_completed(
        clinic_id=clinic, visit_id=visit_id, patient_id=uuid.UUID(int=81), time=NOON
    )
    return [
        partial(store.tell, clinic_registered(clinic_id=clinic, time=NOON, live_from=NOON)),
        partial(store.tell, visit),
        partial(store.tell, patient_erased(clinic_id=clinic, patient_id=author, time=NOON)),
        partial(answer, {"csat": "2"}),
        partial(answer, {"nps": "1", "comment": "Грубо"}),
        *(
            partial(post, review_event(number, hour, rating, author if number == 2 else None))
            for number, hour, rating in (
                (1, 1, 2),
                (1, 2, 5),
                (1, 3, 1),
                (2, 1, 1),
                (2, 2, 2),
                (3, 1, 5),
                (3, 2, 4),
            )
        ),
    ]


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
async def test_reviews_and_answers_end_the_same_in_any_order(
    client: httpx.AsyncClient, token: TokenMaker, store_of: StoreMaker, data: st.DataObject
) -> None:
    """What is consumed and what comes over HTTP, mixed; an answer comes after its link only."""
    states = []
    for is_mixed in (False, True):
        store = store_of(uuid.uuid4())
        steps = steps_of(client, token(clinic=store.clinic_id), store)
        if is_mixed:
            order = range(len(steps))
            drawn = [*data.draw(st.permutations(order)), *data.draw(repeats_of(order))]
            steps = [steps[number] for number in drawn]
        for step in steps:
            await step()
        states.append({name: list(await store.rows(sql)) for name, sql in CASES.items()})
        opened = await store.published("complaint.opened")
        assert len(opened) == len(states[-1]["cases"]) == 3
    assert states[0] == states[1]


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(told=st.lists(TOLD, min_size=1, max_size=20))
async def test_projections_are_rebuilt_from_the_event_log(
    store_of: StoreMaker, told: list[Told]
) -> None:
    store = store_of(uuid.uuid4())
    await store.tell(*events_of(store.clinic_id, told))
    expected = await state(store)
    now = store.clock.now()
    await rebuild(store.database, HANDLERS, PROJECTIONS, store.clinic_id, now)
    assert await state(store) == expected


async def test_two_clinics_may_use_the_same_ids(store: Any, clinic_id: uuid.UUID) -> None:
    visit_id, other = uuid.uuid4(), uuid.uuid4()
    mine = visit_completed(clinic_id=clinic_id, visit_id=visit_id)
    await store.tell(mine, visit_completed(clinic_id=other, visit_id=visit_id))
    (row,) = await store.rows("SELECT clinic_id, patient_id FROM visit")
    assert (row.clinic_id, row.patient_id) == (clinic_id, mine.data.patient_id)
