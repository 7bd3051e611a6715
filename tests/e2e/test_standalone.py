"""From a clinic's event to a mailbox, a 2Z state, a segment and a churn risk.

On the embedded default, and in `make test-kafka` on Apache Kafka.
"""

import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import BATCH_TYPE, Standalone, clinic_body, event, visit

pytestmark = [pytest.mark.e2e, pytest.mark.broker]

MAIL, PHONE, NAME = "anna.lesnaya@example.org", "+70001234567", "Лесная"


@pytest.fixture(scope="module")
def clinic_id() -> uuid.UUID:
    return uuid.uuid4()


@pytest.fixture(scope="module")
def clinic(platform: Standalone, clinic_id: uuid.UUID) -> Iterator[httpx.Client]:
    with platform.client(platform.ready["admin_token"]) as admin:
        answer = admin.put(
            f"/booking/v1/clinics/{clinic_id}",
            json=clinic_body(),
        )
        assert answer.status_code == 201, answer.text
    with platform.client(platform.token("admin", clinic_id)) as client:
        for identifier, contacts in (("P-1", {"email": MAIL}), ("P-2", {"phone": PHONE})):
            answer = client.put(
                f"/booking/v1/patients/{identifier}",
                json={
                    "name": {"family": NAME, "given": "Анна"},
                    "language": "ru",
                    "birth_on": "1984-05-12",
                    "contacts": contacts,
                },
            )
            assert answer.status_code == 201, answer.text
        yield client


def post(client: httpx.Client, events: list[dict[str, Any]]) -> dict[str, Any]:
    answer = client.post("/booking/v1/events", json=events, headers={"Content-Type": BATCH_TYPE})
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_loop_closes_from_event_to_care(platform: Standalone, clinic: httpx.Client) -> None:
    bad = visit("9", "P-1", "2026-01-12T12:00:00+03:00", charged_minor="a lot")
    found = post(
        clinic,
        [
            visit("1", "P-1", "2026-01-12T12:00:00+03:00", charged_minor=250000, currency="RUB"),
            bad,
            visit("2", "P-2", "2026-01-12T13:00:00+03:00"),
            event(
                "appointment.booked",
                "A-1",
                "2026-01-12T13:05:00+03:00",
                appointment_id="A-1",
                patient_id="P-2",
                starts_at="2026-01-16T15:00:00+03:00",
                ends_at="2026-01-16T15:30:00+03:00",
                booked_at="2026-01-12T13:05:00+03:00",
                channel="call_centre",
            ),
        ],
    )
    assert (found["accepted"], found["duplicate"]) == (3, 0)
    assert found["rejected"][0]["index"] == 1
    assert found["rejected"][0]["problem"]["errors"][0]["pointer"] == "/data/charged_minor"

    platform.advance("PT24H")
    statement = clinic.get("/engagement/v1/two-z").json()
    # P-1 has no next appointment: after the clinic's day a contact task is open; P-2 is booked.
    assert (statement["in_scope"], statement["booked"], statement["task_open"]) == (2, 1, 1)
    assert statement["violations"] == 0

    platform.advance("PT24H")
    mails, texts = platform.caught("mails"), platform.caught("sms")
    assert [mail["to"] for mail in mails] == [MAIL]
    assert [text["to"] for text in texts] == [PHONE]
    assert "/feedback/s/" in mails[0]["text"]
    assert mails[0]["unsubscribe"].startswith("<http")

    link = re.search(r"http://\S+/feedback/s/[\w-]+", mails[0]["text"])
    assert link is not None
    page = httpx.get(link.group(0))
    assert page.status_code == 200
    assert 'name="csat"' in page.text
    thanks = httpx.post(link.group(0), data={"csat": "2", "nps": "5", "comment": "долго ждала"})
    assert thanks.status_code in {200, 303}
    platform.advance("PT1H")

    score = clinic.get("/scoring/v1/patients/P-1/score").json()
    assert score["visits"] == 1
    assert "low_score" in [reason["code"] for reason in score["reasons"]]
    kpis = {item["kpi"]: item for item in clinic.get("/scoring/v1/kpis").json()["items"]}
    assert (kpis["visits"]["value"], kpis["csat"]["value"], kpis["csat"]["n"]) == (2, 0, 1)
    reasons = {task["reason"] for task in clinic.get("/engagement/v1/tasks").json()["items"]}
    assert "low_score" in reasons


def test_reminder_goes_out_and_its_link_cancels(platform: Standalone, clinic: httpx.Client) -> None:
    platform.advance("PT30H")
    texts = [text["text"] for text in platform.caught("sms") if "/booking/a/" in text["text"]]
    assert len(texts) == 1
    links = re.findall(r"http://\S+/booking/a/[\w-]+", texts[0])
    assert links
    for link in links:
        assert httpx.get(link).status_code == 200
    assert clinic.get("/booking/v1/appointments/A-1").json()["status"] == "booked"
    assert httpx.post(links[-1]).status_code in {200, 303}
    platform.advance("PT1H")
    status = clinic.get("/booking/v1/appointments/A-1").json()["status"]
    assert status in {"cancelled", "confirmed"}
    assert clinic.get("/engagement/v1/two-z").json()["violations"] == 0


def test_repeat_and_conflict_of_an_event(clinic: httpx.Client) -> None:
    same = visit("1", "P-1", "2026-01-12T12:00:00+03:00", charged_minor=250000, currency="RUB")
    assert post(clinic, [same])["duplicate"] == 1
    other = same | {"data": same["data"] | {"outcome": "treated"}}
    assert post(clinic, [other])["rejected"][0]["problem"]["status"] == 409


def test_other_clinic_sees_nothing(platform: Standalone, clinic: httpx.Client) -> None:
    with platform.client(platform.token("admin", uuid.uuid4())) as stranger:
        assert stranger.get("/booking/v1/patients/P-1").status_code == 404
        assert stranger.get("/scoring/v1/patients/P-1/score").status_code == 404
        assert stranger.get("/engagement/v1/tasks").json()["items"] == []
        assert stranger.get("/engagement/v1/two-z").json()["in_scope"] == 0


def test_erasure_removes_contacts_everywhere(platform: Standalone, clinic: httpx.Client) -> None:
    assert clinic.delete("/booking/v1/patients/P-2").status_code == 204
    assert clinic.delete("/booking/v1/patients/P-2").status_code == 204
    platform.advance("PT1H")
    assert clinic.get("/scoring/v1/patients/P-2/score").status_code == 404
    kpis = {item["kpi"]: item for item in clinic.get("/scoring/v1/kpis").json()["items"]}
    assert kpis["visits"]["value"] == 2


def test_clean_restart_goes_on_where_it_was(platform: Standalone, clinic: httpx.Client) -> None:
    before = platform.advance("PT0S")
    mails = len(platform.caught("mails")) + len(platform.caught("sms"))
    token = clinic.headers["authorization"].removeprefix("Bearer ")
    platform.stop()
    platform.start()
    with platform.client(token) as again:
        assert again.get("/clock").json()["now"] == before
        assert again.get("/scoring/v1/patients/P-1/score").json()["visits"] == 1
        platform.advance("PT6H")
        assert len(platform.caught("mails")) + len(platform.caught("sms")) == mails


def test_kill_and_restart_loses_and_doubles_nothing(
    platform: Standalone, clinic_id: uuid.UUID, clinic: httpx.Client
) -> None:
    with platform.client(platform.token("admin", clinic_id)) as client:
        post(client, [visit(f"K-{n}", f"PK-{n}", "2026-01-16T12:00:00+03:00") for n in range(50)])
    platform.stop(kill=True)
    platform.start()
    with platform.client(platform.token("admin", clinic_id)) as client:
        platform.advance("PT1H")
        kpis = {item["kpi"]: item for item in client.get("/scoring/v1/kpis").json()["items"]}
        assert kpis["visits"]["value"] == 52


def test_no_contact_in_logs_metrics_or_errors(platform: Standalone, clinic: httpx.Client) -> None:
    logs = "".join(
        path.read_text(errors="replace")
        for path in [platform.log, *Path(platform.data_dir).rglob("*.log")]
    )
    metrics = httpx.get(f"{platform.ready['base_url']}/metrics").text
    for secret in (MAIL, PHONE, PHONE.removeprefix("+"), NAME, "долго ждала"):
        assert secret not in logs
        assert secret not in metrics
