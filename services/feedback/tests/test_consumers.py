"""What feedback consumes: all of it, in any order, once."""

import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest

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


def events_of(clinic_id: uuid.UUID, rng: random.Random) -> list[AnyEvent]:
    visits = [uuid.UUID(int=rng.getrandbits(128)) for _ in range(4)]
    patients = [uuid.UUID(int=rng.getrandbits(128)) for _ in range(3)]
    found: list[AnyEvent] = []
    for number in range(20):
        time = NOON + timedelta(minutes=rng.randrange(5))
        given: dict[str, Any] = {"clinic_id": clinic_id, "time": time, "id": f"e{number}"}
        patient_id = rng.choice(patients)
        kind = rng.choice(["clinic", "visit", "visit", "link", "erased", "token"])
        if kind == "clinic":
            found.append(clinic_registered(name=f"Clinic {number}", **given))
        elif kind == "visit":
            practitioner = uuid.UUID(int=number)
            visit_id = rng.choice(visits)
            found.append(
                visit_completed(
                    visit_id=visit_id,
                    patient_id=patient_id,
                    practitioner_id=practitioner,
                    **given,
                )
            )
        elif kind == "link":
            found.append(
                link_issued(
                    link_id=uuid.UUID(int=number),
                    subject_id=uuid.UUID(int=number),
                    patient_id=patient_id,
                    token_hash=hash_of(f"{clinic_id}{number}"),
                    **given,
                )
            )
        elif kind == "erased":
            found.append(patient_erased(patient_id=patient_id, **given))
        else:
            found.append(token_revoked(jti=f"jti {number}", **given))
    return found


async def state(store: Any) -> dict[str, list[Any]]:
    return {
        name: list(await store.rows(statement, clinic_id=store.clinic_id))
        for name, statement in STATE.items()
    }


@pytest.mark.parametrize("seed", range(6))
async def test_any_order_and_repetition_ends_in_the_same_state(
    store_of: StoreMaker, seed: int
) -> None:
    states = []
    for variant in range(5):
        store = store_of(uuid.uuid4())
        events = events_of(store.clinic_id, random.Random(seed))
        if variant:
            order = random.Random(f"{seed} {variant}")
            events = order.sample(events, len(events)) + order.sample(events, len(events) // 2)
        for start in range(0, len(events), 7):
            await store.tell(*events[start : start + 7])
        states.append(await state(store))
    assert all(other == states[0] for other in states)


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


@pytest.mark.parametrize("seed", range(8))
async def test_reviews_and_answers_end_the_same_in_any_order(
    client: httpx.AsyncClient, token: TokenMaker, store_of: StoreMaker, seed: int
) -> None:
    """What is consumed and what comes over HTTP, mixed; an answer comes after its link only."""
    rng, author = random.Random(seed), uuid.UUID(int=51)
    visit_id, link_id = uuid.UUID(int=61), uuid.UUID(int=71)
    states = []
    for variant in range(4):
        store = store_of(uuid.uuid4())
        clinic = store.clinic_id
        secret = f"{clinic}-token"
        headers = token(clinic=clinic)

        async def post(event: Any, headers: dict[str, str] = headers) -> None:
            kind = {"Content-Type": "application/cloudevents+json"}
            answer = await client.post("/v1/events", json=event, headers=headers | kind)
            assert answer.status_code == 202

        async def answer(
            data: dict[str, str], store: Any = store, link: Any = None, secret: str = secret
        ) -> None:
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
        steps: list[Callable[[], Awaitable[None]]] = [
            partial(store.tell, clinic_registered(clinic_id=clinic, time=NOON, live_from=NOON)),
            partial(store.tell, visit),
            partial(store.tell, patient_erased(clinic_id=clinic, patient_id=author, time=NOON)),
            partial(answer, {"csat": "2"}, link=link),
            partial(answer, {"nps": "1", "comment": "Грубо"}, link=link),
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
        if variant:
            steps = [*rng.sample(steps, len(steps)), *rng.sample(steps, 5)]
        for step in steps:
            await step()
        states.append({name: list(await store.rows(sql)) for name, sql in CASES.items()})
        opened = await store.published("complaint.opened")
        assert len(opened) == len(states[-1]["cases"]) == 3
    assert all(other == states[0] for other in states)


async def test_projections_are_rebuilt_from_the_event_log(store: Any, clinic_id: uuid.UUID) -> None:
    await store.tell(*events_of(clinic_id, random.Random(7)))
    expected = await state(store)
    await rebuild(store.database, HANDLERS, PROJECTIONS, clinic_id, store.clock.now())
    assert await state(store) == expected


async def test_two_clinics_may_use_the_same_ids(store: Any, clinic_id: uuid.UUID) -> None:
    visit_id, other = uuid.uuid4(), uuid.uuid4()
    mine = visit_completed(clinic_id=clinic_id, visit_id=visit_id)
    await store.tell(mine, visit_completed(clinic_id=other, visit_id=visit_id))
    (row,) = await store.rows("SELECT clinic_id, patient_id FROM visit")
    assert (row.clinic_id, row.patient_id) == (clinic_id, mine.data.patient_id)
