"""What was sent before, or stands twice in a batch, is told apart and neither kept nor published twice."""

import asyncio
from typing import Any

import httpx


def visit(number: int, outcome: str = "treated") -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"e-{number}",
        "source": "//mis",
        "type": "visit.completed.v1",
        "time": "2026-01-15T10:00:00Z",
        "data": {
            "visit_id": f"V-{number}",
            "patient_id": "P-1",
            "kind": "consultation",
            "outcome": outcome,
            "completed_at": "2026-01-15T10:00:00Z",
        },
    }


async def post(client: httpx.AsyncClient, *events: dict[str, Any]) -> tuple[int, int, list[int]]:
    answer = await client.post(
        "/v1/events",
        json=events,
        headers={"Content-Type": "application/cloudevents-batch+json"},
    )
    assert answer.status_code == 202, answer.text
    told = answer.json()
    return told["accepted"], told["duplicate"], [one["index"] for one in told["rejected"]]


async def published(store: Any) -> list[str]:
    rows = await store.rows(
        "SELECT event_id FROM outbox WHERE topic = 'visit.completed' ORDER BY position"
    )
    return [row.event_id for row in rows]


async def test_each_event_of_a_mixed_batch_has_its_own_fate(
    client: httpx.AsyncClient, store: Any
) -> None:
    assert await post(client, visit(1), visit(2)) == (2, 0, [])
    # New, known, another word for what is known, new, and the same once more.
    mixed = (visit(3), visit(1), visit(2, "healthy"), visit(4), visit(3))
    assert await post(client, *mixed) == (2, 2, [2])
    assert await post(client, *mixed) == (0, 4, [2])
    assert await post(client, visit(5)) == (1, 0, [])
    assert await published(store) == ["e-1", "e-2", "e-3", "e-4", "e-5"]
    found = await store.rows("SELECT count(*) AS visits, min(outcome) AS outcome FROM visit")
    assert [(row.visits, row.outcome) for row in found] == [(5, "treated")]
    ((unsent,),) = await store.rows("SELECT count(*) FROM outbox_unsent")
    assert unsent == len(await store.rows("SELECT position FROM outbox"))


async def test_same_batch_from_many_at_once_is_taken_once(
    client: httpx.AsyncClient, store: Any
) -> None:
    batch = [visit(number) for number in range(20)]
    answers = await asyncio.gather(*(post(client, *batch) for _ in range(6)))
    assert sorted(answers) == [(0, 20, [])] * 5 + [(20, 0, [])]
    assert sorted(await published(store)) == sorted(f"e-{number}" for number in range(20))


async def test_visit_that_is_reported_anew_stands_as_the_later_report_has_it(
    client: httpx.AsyncClient, store: Any
) -> None:
    await post(client, visit(1), visit(2))
    again = visit(1, "healthy") | {"id": "e-3", "time": "2026-01-15T11:00:00Z"}
    late = visit(2, "healthy") | {"id": "e-4", "time": "2026-01-15T09:00:00Z"}
    assert await post(client, again, late, visit(5)) == (3, 0, [])
    found = await store.rows('SELECT outcome FROM visit ORDER BY precedence COLLATE "C"')
    assert [row.outcome for row in found] == ["treated", "treated", "healthy"]
    assert sorted(await published(store)) == ["e-1", "e-2", "e-3", "e-4", "e-5"]


async def test_visits_make_rows_for_all_they_name(client: httpx.AsyncClient, store: Any) -> None:
    named = visit(1)
    named["data"] |= {"practitioner_id": "D-1", "service_code": "filling", "appointment_id": "A-1"}
    await post(client, named, visit(2))
    for table, number in (("patient", 1), ("practitioner", 1), ("service", 1), ("appointment", 1)):
        ((rows,),) = await store.rows(f"SELECT count(*) FROM {table}")
        assert rows == number, table
    ((status,),) = await store.rows("SELECT status FROM appointment")
    assert status == "completed"


async def test_repeat_that_was_taken_for_new_has_published_nothing(
    client: httpx.AsyncClient, store: Any
) -> None:
    for number in (1, 1, 1, 1, 2, 3):
        await post(client, visit(number))
    assert await published(store) == ["e-1", "e-2", "e-3"]
    rows = await store.rows(
        "SELECT position FROM outbox WHERE topic = 'visit.completed' ORDER BY position"
    )
    first, second, third = (row.position for row in rows)
    # Whoever fails has published nothing before that.
    assert (second - first, third - second) == (1, 1)
