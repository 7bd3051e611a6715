"""Reviews in, complaints and surveys for staff."""

import asyncio
import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any

import httpx
import pytest

from feedback.app import PROBLEMS, build_worker
from feedback.complaints import domain as complaints
from feedback.settings import Settings
from feedback.surveys import domain as surveys
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.identifiers import canonical_id
from revisit_chassis.problem import DomainError
from revisit_events.catalog import types_consumed_by
from revisit_events.testing import clinic_registered, patient_erased
from standalone.cluster import ServiceDatabase

OPENING = "2026-01-01T00:00:00+00:00"


TokenMaker = Callable[..., dict[str, str]]
CLOUD_EVENT = {"Content-Type": "application/cloudevents+json"}
TEXT = "Ждала сорок минут, хотя была записана."


def review(number: int = 1, **data: Any) -> dict[str, Any]:
    detail = {
        "review_id": f"yandex-{number}",
        "platform": "yandex_maps",
        "rating_1_to_5": 2,
        "published_at": "2026-01-14T08:41:00+03:00",
        "detected_at": "2026-01-15T09:00:00+03:00",
        "text": TEXT,
        "author": "Анна С.",
        "url": "https://reviews.example/99812",
        "patient_id": None,
        "practitioner_id": None,
    }
    return {
        "specversion": "1.0",
        "id": f"rev-{number}",
        "source": "//mis.example/clinic-7",
        "type": "review.posted.v1",
        "subject": f"yandex-{number}",
        "time": "2026-01-15T09:00:00+03:00",
        "data": detail | data,
    }


async def post(client: httpx.AsyncClient, event: dict[str, Any]) -> httpx.Response:
    return await client.post("/v1/events", content=json.dumps(event), headers=CLOUD_EVENT)


async def test_review_is_published_without_its_text(
    client: httpx.AsyncClient, store: Any, clinic_id: uuid.UUID
) -> None:
    answer = await post(client, review())
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
    assert (await post(client, review())).json()["status"] == "duplicate"
    (event,) = await store.published("review.posted")
    assert set(event) == {
        "review_id",
        "platform",
        "rating_1_to_5",
        "published_at",
        "detected_at",
    }
    assert event["review_id"] == str(canonical_id(clinic_id, "review", "yandex-1"))
    rows = await store.rows("SELECT text, author, url FROM review")
    assert all(TEXT.encode() not in bytes(sealed) for sealed in rows[0])
    everywhere = await store.rows("SELECT data, headers FROM outbox")
    assert not [row for row in everywhere if "сорок" in str(row) or "Анна" in str(row)]


async def test_staff_read_reviews_with_their_text(client: httpx.AsyncClient) -> None:
    for number, rating in enumerate((5, 2, 4), start=1):
        await post(
            client,
            review(
                number,
                rating_1_to_5=rating,
                published_at=f"2026-01-1{number}T08:00:00+03:00",
                platform="2gis" if number == 3 else "yandex_maps",
            ),
        )
    page = (await client.get("/v1/reviews", params={"limit": 2})).json()
    assert [item["rating_1_to_5"] for item in page["items"]] == [4, 2]
    assert page["items"][0]["text"] == TEXT
    rest = (await client.get("/v1/reviews", params={"cursor": page["next"]})).json()
    assert ([item["rating_1_to_5"] for item in rest["items"]], rest["next"]) == ([5], None)
    low = (await client.get("/v1/reviews", params={"rating_at_most": 2})).json()["items"]
    assert len(low) == 1
    platform = (await client.get("/v1/reviews", params={"platform": "2gis"})).json()["items"]
    assert len(platform) == 1


EDITS = (
    review(rating_1_to_5=2),
    review(rating_1_to_5=4, detected_at="2026-01-16T09:00:00+03:00")
    | {"id": "rev-1-kinder", "time": "2026-01-16T09:00:00+03:00"},
    review(rating_1_to_5=1, detected_at="2026-01-17T09:00:00+03:00")
    | {"id": "rev-1-worse", "time": "2026-01-17T09:00:00+03:00"},
)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("is_known_first", [True, False])
async def test_low_review_has_one_case_as_grave_as_it_stands_in_any_order(
    client: httpx.AsyncClient,
    store: Any,
    clinic_id: uuid.UUID,
    order: tuple[int, ...],
    is_known_first: bool,
) -> None:
    known = clinic_registered(clinic_id=clinic_id, live_from=datetime.fromisoformat(OPENING))
    if is_known_first:
        await store.tell(known)
    for number in order:
        await post(client, EDITS[number])
    if not is_known_first:
        assert await store.published("complaint.opened") == []
        await store.tell(known)
    assert len(await store.published("complaint.opened")) == 1
    (complaint,) = (await client.get("/v1/complaints")).json()["items"]
    assert (complaint["origin"], complaint["severity"]) == ("review", "high")
    # 72 hours from the moment the clinic could first know of it.
    assert complaint["opened_at"] == "2026-01-15T06:00:00Z"
    assert complaint["due_at"] == "2026-01-18T06:00:00Z"


async def test_review_of_a_clinic_without_live_from_counts_from_its_registration(
    client: httpx.AsyncClient, store: Any, clinic_id: uuid.UUID
) -> None:
    await post(client, review(1))
    await post(client, review(2, published_at="2026-01-10T08:00:00+03:00"))
    registered_at = datetime.fromisoformat("2026-01-12T00:00:00+00:00")
    await store.tell(clinic_registered(clinic_id=clinic_id, live_from=None, time=registered_at))
    (case,) = (await client.get("/v1/complaints")).json()["items"]
    assert case["origin_id"] == str(canonical_id(clinic_id, "review", "yandex-1"))


async def test_resolving_and_erasing_at_once_end_both(
    client: httpx.AsyncClient, store: Any, clinic_id: uuid.UUID
) -> None:
    for number in range(5):
        patient_id = canonical_id(clinic_id, "patient", f"P-{number}")
        case = await open_complaint(client, patient_id=f"P-{number}", text="Лично")
        path = f"/v1/complaints/{case['complaint_id']}"
        body = {"resolution_code": "apologised", "text": "Лично"}
        answer, _ = await asyncio.gather(
            client.post(f"{path}/resolution", json=body),
            store.tell(patient_erased(clinic_id=clinic_id, patient_id=patient_id)),
        )
        assert answer.status_code == 200
        found = (await client.get(path)).json()
        assert (found["text"], found["resolution_text"]) == (None, None)


async def test_edits_stand_by_their_time_in_any_order(
    client: httpx.AsyncClient,
) -> None:
    newer = review(rating_1_to_5=5) | {"id": "rev-newer", "time": "2026-01-16T09:00:00+03:00"}
    await post(client, newer)
    await post(client, review(rating_1_to_5=3))
    (item,) = (await client.get("/v1/reviews")).json()["items"]
    assert item["rating_1_to_5"] == 5


async def test_review_from_before_live_from_opens_no_case(
    client: httpx.AsyncClient, store: Any, clinic_id: uuid.UUID, clock: SimulatedClock
) -> None:
    await store.tell(clinic_registered(clinic_id=clinic_id, live_from=clock.now()))
    await post(client, review())
    assert await store.published("complaint.opened") == []
    assert len(await store.published("review.posted")) == 1


async def test_erased_authors_text_is_removed_and_not_taken_again(
    client: httpx.AsyncClient, store: Any, clinic_id: uuid.UUID
) -> None:
    patient_id = canonical_id(clinic_id, "patient", "P-5512")
    await post(client, review(patient_id="P-5512"))
    await store.tell(patient_erased(clinic_id=clinic_id, patient_id=patient_id))
    await post(client, review(2, patient_id="P-5512"))
    items = (await client.get("/v1/reviews")).json()["items"]
    assert len(items) == 2
    assert {(item["text"], item["author"], item["url"]) for item in items} == {(None,) * 3}


async def test_bad_review_does_not_block_the_batch(client: httpx.AsyncClient) -> None:
    batch = [review(1), review(2, rating_1_to_5=9), review(3)]
    answer = await client.post(
        "/v1/events",
        content=json.dumps(batch),
        headers={"Content-Type": "application/cloudevents-batch+json"},
    )
    assert answer.status_code == 202
    assert (answer.json()["accepted"], len(answer.json()["rejected"])) == (2, 1)


async def test_other_types_are_not_taken(client: httpx.AsyncClient) -> None:
    answer = await post(client, review() | {"type": "visit.completed.v1"})
    assert answer.status_code == 422


async def open_complaint(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/complaints", json={"severity": "high"} | body)
    assert answer.status_code == 201
    opened: dict[str, Any] = answer.json()
    return opened


async def test_staff_record_a_complaint_once_with_its_key(
    client: httpx.AsyncClient, store: Any, clinic_id: uuid.UUID
) -> None:
    body = {
        "severity": "high",
        "patient_id": "P-1",
        "text": "Грубо ответили",
        "cause_code": "staff",
    }
    headers = {"Idempotency-Key": "complaint-1"}
    first = await client.post("/v1/complaints", json=body, headers=headers)
    again = await client.post("/v1/complaints", json=body, headers=headers)
    assert (first.status_code, again.json()) == (201, first.json())
    opened = first.json()
    assert opened["patient_id"] == str(canonical_id(clinic_id, "patient", "P-1"))
    assert opened["text"] == "Грубо ответили"
    (event,) = await store.published("complaint.opened")
    assert event["cause_code"] == "staff"
    assert "text" not in event


async def test_cause_and_resolution(
    client: httpx.AsyncClient, store: Any, clock: SimulatedClock
) -> None:
    path = f"/v1/complaints/{(await open_complaint(client))['complaint_id']}"
    caused = await client.post(f"{path}/causes", json={"cause_code": "waiting"})
    assert (caused.status_code, caused.json()["cause_code"]) == (201, "waiting")
    clock.set(clock.now() + timedelta(hours=80))
    assert (await client.get(path)).json()["is_overdue"] is True
    body = {"resolution_code": "apologised", "text": "Позвонили и извинились"}
    resolved = await client.post(f"{path}/resolution", json=body)
    assert (resolved.status_code, resolved.json()["state"]) == (200, "resolved")
    assert resolved.json()["resolution_text"] == "Позвонили и извинились"
    assert (await client.post(f"{path}/resolution", json=body)).status_code == 409
    (event,) = await store.published("complaint.resolved")
    assert (event["hours_to_resolve"], event["cause_code"]) == (80, "waiting")
    audit = await store.rows("SELECT action, actor FROM audit_entry ORDER BY entry_id")
    assert [row.action for row in audit] == [
        "complaint.open",
        "complaint.classify",
        "complaint.resolve",
    ]


async def test_complaints_are_filtered_and_paged(client: httpx.AsyncClient) -> None:
    for severity, patient in (("low", "P-1"), ("high", "P-1"), ("high", "P-2")):
        await open_complaint(client, severity=severity, patient_id=patient)
    assert len((await client.get("/v1/complaints?severity=high")).json()["items"]) == 2
    assert len((await client.get("/v1/complaints?patient_id=P-1")).json()["items"]) == 2
    assert (await client.get("/v1/complaints?state=resolved")).json()["items"] == []
    assert (await client.get("/v1/complaints?origin=survey")).json()["items"] == []
    first = (await client.get("/v1/complaints?limit=2")).json()
    rest = (await client.get("/v1/complaints", params={"cursor": first["next"]})).json()
    ids = {item["complaint_id"] for item in first["items"] + rest["items"]}
    assert (len(ids), rest["next"]) == (3, None)


async def test_other_clinics_token_sees_and_changes_nothing(
    client: httpx.AsyncClient, token: TokenMaker
) -> None:
    complaint = await open_complaint(client)
    await post(client, review())
    stranger = token(clinic=uuid.uuid4())
    path = f"/v1/complaints/{complaint['complaint_id']}"
    assert (await client.get("/v1/complaints", headers=stranger)).json()["items"] == []
    assert (await client.get("/v1/reviews", headers=stranger)).json()["items"] == []
    assert (await client.get(path, headers=stranger)).status_code == 404
    for part, body in (
        ("causes", {"cause_code": "x"}),
        ("resolution", {"resolution_code": "unfounded"}),
    ):
        answer = await client.post(f"{path}/{part}", json=body, headers=stranger)
        assert answer.status_code == 404
    assert (await client.get(path)).json() == complaint


async def test_survey_starts_with_the_default_and_is_changed_in_versions(
    client: httpx.AsyncClient,
) -> None:
    first = await client.get("/v1/surveys/post-visit")
    assert (first.json()["version"], first.headers["ETag"]) == (0, '"0"')
    definition = {key: first.json()[key] for key in ("wording", "case_rule")}
    definition["case_rule"] = {"csat_at_most": 3, "nps_at_most": -1}
    headers = {"If-Match": first.headers["ETag"]}
    changed = await client.put("/v1/surveys/post-visit", json=definition, headers=headers)
    assert (changed.status_code, changed.json()["version"]) == (200, 1)
    again = await client.put("/v1/surveys/post-visit", json=definition)
    assert again.json()["version"] == 1
    stale = await client.put("/v1/surveys/post-visit", json=definition, headers=headers)
    assert stale.status_code == 412
    assert (await client.get("/v1/surveys/post-visit")).json() == changed.json()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"wording": {}},
        {"wording": {"fr": {}}},
        {"wording": {"ru": {"title": "a"}}},
        {"case_rule": {"csat_at_most": 9}},
    ],
)
async def test_survey_that_cannot_be_shown_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    answer = await client.put("/v1/surveys/post-visit", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_unknown_things_are_404_problems(client: httpx.AsyncClient) -> None:
    for path in ("/v1/surveys/other", f"/v1/complaints/{uuid.uuid4()}", "/v1/nothing"):
        answer = await client.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/reviews", "complaints:read"),
        ("GET", "/v1/complaints", "complaints:write"),
        ("POST", "/v1/complaints", "complaints:read"),
        ("GET", "/v1/surveys/post-visit", "surveys:write"),
        ("PUT", "/v1/surveys/post-visit", "surveys:read"),
        ("POST", "/v1/events", "reviews:read"),
    ],
)
async def test_scope_is_needed(
    client: httpx.AsyncClient, token: TokenMaker, method: str, path: str, scope: str
) -> None:
    definition = (await client.get("/v1/surveys/post-visit")).json()
    body = {"severity": "low"} if path == "/v1/complaints" else definition
    if path.startswith("/v1/surveys"):
        body = {key: definition[key] for key in ("wording", "case_rule")}
    answer = await client.request(method, path, json=body, headers=token(scope))
    assert answer.status_code == 403


async def test_events_are_described_where_they_say(client: httpx.AsyncClient) -> None:
    described = await client.get("/asyncapi.yaml")
    assert (described.status_code, "survey.answered" in described.text) == (200, True)
    assert (await client.get("/schemas/survey.answered.v2.json")).status_code == 200


async def test_openapi_names_every_operation_once(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    names = [
        operation["operationId"]
        for path in document["paths"].values()
        for operation in path.values()
    ]
    assert len(names) == len(set(names))
    assert {"/s/{token}", "/v1/complaints", "/v1/events"} <= set(document["paths"])


def test_every_error_has_a_status() -> None:
    defined = {
        kind
        for module in (complaints, surveys)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, DomainError) and kind is not DomainError
    }
    assert defined == set(PROBLEMS)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/reviews?platform=%00",
        "/v1/reviews?published_from=0001-01-01T00:00:00%2B05:00",
        "/v1/reviews?cursor=WzEsMl0",
        "/v1/complaints?severity=awful",
        "/v1/surveys/%00",
    ],
)
async def test_what_cannot_be_asked_is_a_422_problem(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_worker_reads_what_the_catalogue_says_and_waits_for_no_moment(
    service_database: ServiceDatabase, clock: SimulatedClock
) -> None:
    settings = Settings.model_validate(
        {
            "database_url": service_database.database_url,
            "worker_database_url": service_database.worker_database_url,
        }
    )
    worker = build_worker(settings, clock=clock)
    assert len(worker.consumer.topics) == len(types_consumed_by("feedback"))
    assert (len(worker.relays), list(worker.schedule)) == (1, [])
