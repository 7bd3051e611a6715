"""The commands over HTTP: the life cycle, its conflicts, and what clinics send in odd forms."""

import asyncio
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from revisit_chassis.clock import SimulatedClock
from revisit_chassis.pages import encode_cursor

START = "2026-01-15T12:30:00Z"
BODY = {"appointment_id": "A-1", "patient_id": "P-1", "starts_at": START, "practitioner_id": "D-1"}
FINDINGS = {"kind": "consultation", "outcome": "treated", "visit_id": "V-1"}


def reported(kind: str, at: str, event_id: str = "e-1", **data: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "//mis",
        "type": f"{kind}.v1",
        "time": at,
        "data": {"appointment_id": "A-1", "patient_id": "P-1"} | data,
    }


async def post_event(client: httpx.AsyncClient, event: dict[str, Any]) -> httpx.Response:
    return await client.post(
        "/v1/events", json=event, headers={"Content-Type": "application/cloudevents+json"}
    )


async def test_appointment_lives_from_booking_to_visit(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any
) -> None:
    booked = await client.post(
        "/v1/appointments", json=BODY, headers={"X-Correlation-Id": "flow-7"}
    )
    assert booked.status_code == 201
    assert booked.json()["appointment_identifier"] == "A-1"
    for step, status in (
        ("confirmation", "confirmed"),
        ("arrival", "arrived"),
        ("start", "in_progress"),
    ):
        clock.set(clock.now() + timedelta(hours=1))
        moved = await client.post(f"/v1/appointments/A-1/{step}")
        assert (moved.status_code, moved.json()["status"]) == (200, status)
        read = await client.get("/v1/appointments/A-1")
        assert read.json() == moved.json()
        assert read.headers["etag"] == moved.headers["etag"]
    done = await client.post("/v1/appointments/A-1/completion", json=FINDINGS)
    assert done.json()["appointment"]["status"] == "completed"
    again = await client.post("/v1/appointments/A-1/completion", json=FINDINGS)
    assert (again.status_code, again.json()["type"]) == (409, "/problems/illegal-move")
    ((headers, _),) = await store.published("appointment.booked")
    assert headers["ce_correlationid"] == "flow-7"
    assert len(await store.published("visit.completed")) == 1


async def test_two_bookings_of_one_id_at_once_make_one(
    client: httpx.AsyncClient, store: Any
) -> None:
    answers = await asyncio.gather(
        *(client.post("/v1/appointments", json=BODY | {"patient_id": f"P-{n}"}) for n in range(6))
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 5
    assert len(await store.published("appointment.booked")) == 1


async def test_two_visits_of_one_id_at_once_make_one(client: httpx.AsyncClient, store: Any) -> None:
    for name in ("A-1", "A-2"):
        await client.post("/v1/appointments", json=BODY | {"appointment_id": name})
        await client.post(f"/v1/appointments/{name}/arrival")
        await client.post(f"/v1/appointments/{name}/start")
    answers = await asyncio.gather(
        *(client.post(f"/v1/appointments/{n}/completion", json=FINDINGS) for n in ("A-1", "A-2"))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409]


async def test_repeat_with_an_idempotency_key_gets_the_same_answer(
    client: httpx.AsyncClient, store: Any
) -> None:
    body = {"patient_id": "P-1", "starts_at": START}
    key = {"Idempotency-Key": "book-1"}
    first, second = [await client.post("/v1/appointments", json=body, headers=key) for _ in "ab"]
    assert first.json() == second.json()
    assert len(await store.published("appointment.booked")) == 1
    other = await client.post(
        "/v1/appointments", json=body | {"modality": "telemedicine"}, headers=key
    )
    assert other.status_code == 422


async def test_command_stands_over_a_report_of_the_same_moment_with_a_greater_sequence(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any
) -> None:
    at = clock.now().isoformat()
    event = reported("appointment.booked", at, starts_at=START) | {"sequence": "900"}
    assert (await post_event(client, event)).status_code == 202
    cancelled = await client.post(
        "/v1/appointments/A-1/cancellation", json={"by": "patient", "reason_code": "illness"}
    )
    assert cancelled.json()["status"] == "cancelled"
    assert (await client.get("/v1/appointments/A-1")).json()["status"] == "cancelled"
    ((headers, _),) = await store.published("appointment.cancelled")
    assert int(headers["ce_sequence"]) > 900


async def test_clinic_and_patient_put_stand_over_reports_with_greater_sequences(
    client: httpx.AsyncClient, clock: SimulatedClock, clinic_id: uuid.UUID, store: Any
) -> None:
    at = clock.now().isoformat()
    patient = reported("patient.registered", at, language="en") | {"sequence": "900"}
    patient["data"] = {"patient_id": "P-1", "language": "en"}
    assert (await post_event(client, patient)).status_code == 202
    await client.put("/v1/patients/P-1", json={"language": "ru"})
    assert (await client.get("/v1/patients/P-1")).json()["language"] == "ru"
    clinic = {
        "clinic_id": str(clinic_id),
        "name": "x",
        "time_zone": "Asia/Omsk",
        "language": "en",
        "country": "RU",
        "currency": "RUB",
    }
    event = reported("clinic.registered", at, "e-2") | {"sequence": "900", "data": clinic}
    assert (await post_event(client, event)).status_code == 202
    body = {name: value for name, value in clinic.items() if name != "clinic_id"}
    answer = await client.put(
        f"/v1/clinics/{clinic_id}", json=body | {"time_zone": "Europe/Moscow"}
    )
    assert answer.json()["time_zone"] == "Europe/Moscow"


async def test_contacts_told_last_stand_though_the_clock_went_back(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any
) -> None:
    for phone, back in (("+79160000001", 0), ("+79160000002", 60), ("+79160000003", 120)):
        clock._now -= timedelta(seconds=back)
        await client.put("/v1/patients/P-1", json={"contacts": {"phone": phone}})
    told = [headers for headers, _ in await store.published("patient.contact_changed")]
    places = [(headers["ce_time"], headers["ce_sequence"]) for headers in told]
    assert len(places) == 3
    assert places == sorted(places)


@pytest.mark.parametrize("path", ["/v1/patients/N-1", "/v1/clinics"])
async def test_if_match_star_on_what_is_not_there_is_412(
    client: httpx.AsyncClient, path: str, clinic_id: uuid.UUID
) -> None:
    if path == "/v1/clinics":
        first = await client.get(f"{path}/{clinic_id}")
        body = {name: value for name, value in first.json().items() if name != "clinic_id"}
        path = f"{path}/{clinic_id}"
        stale = await client.put(path, json=body, headers={"If-Match": '"77"'})
        assert stale.status_code == 412
        return
    answer = await client.put(path, json={}, headers={"If-Match": "*"})
    assert answer.status_code == 412
    assert (await client.get(path)).status_code == 404


async def test_appointment_command_with_a_stale_version_is_412(
    client: httpx.AsyncClient, clock: SimulatedClock
) -> None:
    tag = (await client.post("/v1/appointments", json=BODY)).headers["etag"]
    late = reported(
        "appointment.rescheduled",
        (clock.now() + timedelta(minutes=1)).isoformat(),
        starts_at="2026-01-16T12:30:00Z",
    )
    await post_event(client, late)
    cancel = {"by": "clinic", "reason_code": "practitioner_absent"}
    stale = await client.post(
        "/v1/appointments/A-1/cancellation", json=cancel, headers={"If-Match": tag}
    )
    assert stale.status_code == 412
    fresh = (await client.get("/v1/appointments/A-1")).headers["etag"]
    done = await client.post(
        "/v1/appointments/A-1/cancellation", json=cancel, headers={"If-Match": fresh}
    )
    assert done.status_code == 200


async def test_schedule_that_changes_by_a_late_report_has_another_entity_tag(
    client: httpx.AsyncClient, clock: SimulatedClock
) -> None:
    await client.post("/v1/appointments", json=BODY)
    clock.set(clock.now() + timedelta(hours=1))
    tag = (await client.post("/v1/appointments/A-1/confirmation")).headers["etag"]
    between = (clock.now() - timedelta(minutes=30)).isoformat()
    await post_event(
        client, reported("appointment.rescheduled", between, starts_at="2026-01-17T12:30:00Z")
    )
    read = await client.get("/v1/appointments/A-1")
    assert (read.json()["status"], read.json()["starts_at"][:10]) == ("confirmed", "2026-01-17")
    assert read.headers["etag"] != tag


async def test_null_says_no_more_than_nothing(client: httpx.AsyncClient) -> None:
    person = {"name": None, "contacts": None, "chronic": None, "acquisition": {"channel": None}}
    assert (await client.put("/v1/patients/P-1", json=person)).status_code == 201
    assert (await client.get("/v1/patients/P-1")).json()["chronic"] is False
    booked = await client.post("/v1/appointments", json=BODY | {"modality": None})
    assert booked.json()["modality"] == "in_person"
    for number, event in enumerate(
        (
            reported("appointment.booked", START, starts_at=START, modality=None),
            reported("appointment.cancelled", START, by="patient", late=None),
            reported("patient.registered", START, chronic=None),
        )
    ):
        answer = await post_event(client, event | {"id": f"null-{number}"})
        assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
    answer = await post_event(
        client, reported("appointment.booked", START, "null-9", starts_at=None)
    )
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/data/starts_at")


async def test_identifier_with_a_slash_is_addressed_by_its_escaped_form(
    client: httpx.AsyncClient,
) -> None:
    put = await client.put("/v1/patients/12%2F5", json={"language": "ru"})
    assert put.json()["patient_identifier"] == "12/5"
    assert (await client.get("/v1/patients/12%2F5")).json()["language"] == "ru"
    await client.post(
        "/v1/appointments", json=BODY | {"appointment_id": "12/5", "patient_id": "12/5"}
    )
    moved = await client.post("/v1/appointments/12%2F5/confirmation")
    assert moved.json()["appointment_identifier"] == "12/5"
    assert (await client.get("/v1/patients/12/5")).status_code == 404


async def test_reason_of_a_no_show_is_kept_once_the_patient_is_reached(
    client: httpx.AsyncClient, clock: SimulatedClock, store: Any
) -> None:
    await client.post("/v1/appointments", json=BODY)
    clock.set(clock.now() + timedelta(hours=5))
    await client.post("/v1/appointments/A-1/no-show")
    reached = await client.post("/v1/appointments/A-1/no-show", json={"reason_code": "forgot"})
    assert reached.json()["no_show_reason_code"] == "forgot"
    assert len(await store.published("appointment.no_show")) == 1
    assert (await client.post("/v1/appointments/A-1/no-show")).status_code == 409


async def test_doctor_starts_and_completes_and_a_reader_does_not(
    client: httpx.AsyncClient, as_role: Callable[[str], dict[str, str]]
) -> None:
    await client.post("/v1/appointments", json=BODY)
    await client.post("/v1/appointments/A-1/arrival")
    assert (
        await client.post("/v1/appointments/A-1/start", headers=as_role("quality"))
    ).status_code == 403
    assert (
        await client.post("/v1/appointments/A-1/start", headers=as_role("doctor"))
    ).status_code == 200


async def test_clinic_by_event_needs_the_right_of_put_its_own_id_and_a_real_zone(
    client: httpx.AsyncClient, clinic_id: uuid.UUID, as_role: Callable[[str], dict[str, str]]
) -> None:
    data = {
        "clinic_id": str(clinic_id),
        "name": "x",
        "time_zone": "Asia/Omsk",
        "language": "ru",
        "country": "RU",
        "currency": "RUB",
    }
    event = reported("clinic.registered", START) | {"data": data}
    headers = as_role("clinic_system") | {"Content-Type": "application/cloudevents+json"}
    refused = await client.post("/v1/events", json=event, headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/unknown-event-type")
    other = event | {"data": data | {"clinic_id": str(uuid.uuid4())}, "id": "e-2"}
    assert (await post_event(client, other)).status_code == 403
    nowhere = event | {"data": data | {"time_zone": "Mars/Olympus"}, "id": "e-3"}
    answer = await post_event(client, nowhere)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/data/time_zone")
    assert (await post_event(client, event | {"id": "e-4"})).status_code == 202


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
async def test_cursor_with_a_time_that_is_none_in_utc_is_a_422(
    client: httpx.AsyncClient, at: str
) -> None:
    cursor = encode_cursor((at, str(uuid.uuid4())))
    answer = await client.get("/v1/rejected-events", params={"cursor": cursor})
    assert answer.status_code == 422, answer.text


async def test_malformed_body_is_400(client: httpx.AsyncClient) -> None:
    answer = await client.put(
        "/v1/patients/P-1", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/malformed-body")


async def test_move_request_stays_listed_until_the_appointment_is_moved(
    client: httpx.AsyncClient, store: Any, clinic_id: uuid.UUID
) -> None:
    await client.post("/v1/appointments", json=BODY)
    await store.rows(
        "UPDATE appointment SET move_requested_at = '2026-01-15T09:00:00Z' RETURNING 1"
    )
    listed = (await client.get("/v1/move-requests")).json()["items"]
    assert [each["appointment_identifier"] for each in listed] == ["A-1"]
    assert (await client.get("/v1/move-requests", params={"cursor": "x"})).status_code == 422
    await client.post(
        "/v1/appointments/A-1/rescheduling", json={"starts_at": "2026-01-16T12:30:00Z"}
    )
    assert (await client.get("/v1/move-requests")).json()["items"] == []
