"""Key figures by hand-counted cases, scores, segments and targets, over HTTP."""

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import httpx
import pytest

from revisit_chassis.db import Database
from revisit_events import testing
from scoring.api import Kpi
from scoring.domain.figures import DEFINITIONS

Tell = Callable[..., Awaitable[None]]
Work = Callable[..., Awaitable[int]]
NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ANNA, BORIS = uuid.UUID(int=101), uuid.UUID(int=102)
DOCTOR, NURSE = uuid.UUID(int=201), uuid.UUID(int=202)


def visit(clinic_id: uuid.UUID, at: datetime, **data: Any) -> Any:
    given: dict[str, Any] = {"patient_id": ANNA, "completed_at": at, "appointment_id": None}
    return testing.visit_completed(clinic_id=clinic_id, time=at, **(given | data))


async def kpis(client: httpx.AsyncClient, **query: Any) -> dict[str, dict[str, Any]]:
    answer = await client.get("/v1/kpis", params=query)
    assert answer.status_code == 200, answer.text
    return {item["kpi"]: item for item in answer.json()["items"]}


async def test_every_figure_has_its_definition(client: httpx.AsyncClient) -> None:
    found = await kpis(client)
    assert list(found) == list(DEFINITIONS)
    assert set(found) == set(get_args(Kpi))
    assert all(item["population"] and item["exclusions"] for item in found.values())
    # Versions are each figure's own.
    assert len({item["definition_version"] for item in found.values()}) > 1


async def test_no_show_rate_counts_kept_and_missed_only(
    tell: Tell, client: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    missed, first, second, cancelled = (uuid.uuid4() for _ in range(4))
    common: dict[str, Any] = {"clinic_id": clinic_id, "time": NOW - DAY}
    await tell(
        testing.appointment_no_show(appointment_id=missed, **common),
        visit(clinic_id, NOW - DAY, appointment_id=first),
        visit(clinic_id, NOW - DAY, appointment_id=second),
        visit(clinic_id, NOW - DAY),
        testing.appointment_cancelled(appointment_id=cancelled, **common),
    )
    rate = (await kpis(client))["no_show_rate"]
    assert (rate["value"], rate["n"]) == (1 / 3, 3)


async def test_late_reversal_leaves_a_kept_appointment_kept(
    tell: Tell, client: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    appointment = uuid.uuid4()
    at = datetime(2026, 5, 20, 10, 40, tzinfo=UTC)
    common: dict[str, Any] = {"clinic_id": clinic_id, "appointment_id": appointment}
    await tell(
        testing.appointment_booked(starts_at=at, time=at - DAY, practitioner_id=NURSE, **common),
        testing.appointment_no_show(time=at + timedelta(minutes=30), **common),
        visit(clinic_id, at, appointment_id=appointment, practitioner_id=DOCTOR),
        testing.appointment_no_show_reversed(time=at + timedelta(hours=5), **common),
    )
    rate = (await kpis(client))["no_show_rate"]
    assert (rate["value"], rate["n"]) == (0, 1)
    assert (await kpis(client, practitioner_id=str(DOCTOR)))["no_show_rate"]["n"] == 1
    assert (await kpis(client, practitioner_id=str(NURSE)))["no_show_rate"]["n"] == 0


async def test_reversal_without_a_visit_is_neither_kept_nor_missed(
    tell: Tell, client: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    common: dict[str, Any] = {"clinic_id": clinic_id, "appointment_id": uuid.uuid4()}
    await tell(
        testing.appointment_no_show(time=NOW - DAY, **common),
        testing.appointment_no_show_reversed(time=NOW, **common),
    )
    assert (await kpis(client))["no_show_rate"]["n"] == 0


async def test_waiting_is_from_arrival_to_start(
    tell: Tell, client: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    def waited(minutes: int | None) -> Any:
        arrived = NOW - DAY
        started = None if minutes is None else arrived + timedelta(minutes=minutes)
        return visit(clinic_id, NOW - DAY, arrived_at=arrived, started_at=started)

    await tell(*(waited(minutes) for minutes in (10, 14, 15, 21, -5, None)))
    found = await kpis(client)
    waiting, short = found["waiting_minutes"], found["waiting_under_15_minutes"]
    assert (waiting["value"], waiting["n"], found["visits"]["value"]) == (15, 4, 6)
    # s = 4.55, t(3) = 3.182: 15 +- 7.2
    assert waiting["interval_low"] == pytest.approx(7.8, abs=0.1)
    assert (short["value"], short["n"]) == (0.5, 4)


async def test_return_is_another_local_day_within_the_term_and_young_visits_wait(
    tell: Tell, client: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    # 21:30 UTC is half past midnight in Moscow.
    evening = datetime(2025, 5, 1, 20, 30, tzinfo=UTC)
    await tell(
        testing.clinic_registered(clinic_id=clinic_id, time_zone="Europe/Moscow"),
        visit(clinic_id, evening - timedelta(hours=3)),
        visit(clinic_id, evening),
        visit(clinic_id, evening + 182 * DAY + timedelta(hours=1)),
        visit(clinic_id, evening, patient_id=BORIS),
        visit(clinic_id, evening + timedelta(hours=1), patient_id=BORIS),
        visit(clinic_id, NOW - 30 * DAY, patient_id=uuid.uuid4()),
    )
    answer = (await client.get("/v1/kpis")).json()
    assert answer["as_of"] == "2026-06-01T00:00:00Z"
    found = {item["kpi"]: item for item in answer["items"]}
    # Boris's second visit is on the next local day; Anna's third comes an hour past 182 days.
    six, twelve = found["return_6_months"], found["return_12_months"]
    assert (six["n"], six["value"]) == (5, 1 / 5)
    assert (twelve["n"], twelve["value"]) == (4, 3 / 4)


async def test_answers_count_for_whom_the_visit_names_whenever_it_arrives(
    tell: Tell, client: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    visit_id = uuid.uuid4()
    for kind, score, least, most in (("csat", 4, 1, 5), ("nps", 9, 0, 10)):
        await tell(
            testing.survey_answered(
                clinic_id=clinic_id,
                kind=kind,
                score=score,
                scale_min=least,
                scale_max=most,
                visit_id=visit_id,
                practitioner_id=None,
                time=NOW - DAY,
            )
        )
    assert (await kpis(client, practitioner_id=str(DOCTOR)))["csat"]["n"] == 0
    await tell(visit(clinic_id, NOW - DAY, visit_id=visit_id, practitioner_id=DOCTOR))
    found = await kpis(client, practitioner_id=str(DOCTOR))
    assert (found["csat"]["value"], found["csat"]["n"]) == (1, 1)
    assert (found["nps"]["value"], found["nps"]["n"]) == (100, 1)
    assert found["nps"]["interval_low"] < 0


async def test_response_rate_is_of_visits_asked(
    tell: Tell, client: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    asked = [uuid.uuid4() for _ in range(3)]
    links = [
        testing.link_issued(clinic_id=clinic_id, subject_id=visit_id, time=NOW - 3 * DAY)
        for visit_id in (*asked, asked[0])
    ]
    other = testing.link_issued(clinic_id=clinic_id, purpose="cancel", time=NOW - 3 * DAY)
    answers = [
        testing.survey_answered(clinic_id=clinic_id, visit_id=asked[0], kind=kind, time=NOW - DAY)
        for kind in ("csat", "nps")
    ]
    await tell(*links, other, *answers)
    rate = (await kpis(client))["survey_response_rate"]
    assert (rate["value"], rate["n"], rate["unit"]) == (1 / 3, 3, "share")
    assert (await kpis(client, **{"from": "2026-05-30"}))["survey_response_rate"]["n"] == 0


async def test_days_are_the_clinics_and_the_last_one_is_left_out(
    tell: Tell, client: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    await tell(
        testing.clinic_registered(clinic_id=clinic_id, time_zone="Europe/Moscow"),
        visit(clinic_id, datetime(2026, 4, 30, 20, 59, tzinfo=UTC)),
        visit(clinic_id, datetime(2026, 4, 30, 21, 0, tzinfo=UTC)),
        visit(clinic_id, datetime(2026, 5, 1, 21, 0, tzinfo=UTC)),
    )
    found = await kpis(client, **{"from": "2026-05-01", "to": "2026-05-02"})
    assert found["visits"]["value"] == 1
    times = {"from": "2026-04-30T23:59:00+03:00", "to": "2026-05-02T00:00:00+03:00"}
    assert (await kpis(client, **times))["visits"]["value"] == 2
    answer = (await client.get("/v1/kpis", params={"from": "2026-05-01"})).json()
    assert answer["from"] == "2026-04-30T21:00:00Z"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "2026-05-02", "to": "2026-05-01"}, "/to"),
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-05-01T10:00:00"}, "to"),
    ],
)
async def test_span_that_cannot_be_is_a_problem_that_names_the_field(
    client: httpx.AsyncClient, query: dict[str, str], field: str
) -> None:
    answer = await client.get("/v1/kpis", params=query)
    assert answer.status_code == 422
    assert any(field in error["pointer"] for error in answer.json()["errors"])


async def test_score_shows_rfm_reasons_and_money(
    tell: Tell, work: Work, client: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    await tell(
        testing.clinic_registered(clinic_id=clinic_id, currency="RUB"),
        visit(clinic_id, NOW - 400 * DAY, charged_minor=250_000, outcome="treated"),
    )
    await work()
    found = (await client.get(f"/v1/patients/{ANNA}/score")).json()
    assert found["rfm"] == {
        "recency": 2,
        "frequency": 1,
        "monetary": None,
        "definition_version": "1",
    }
    assert (found["charged_minor"], found["currency"]) == (250_000, "RUB")
    assert (found["treatment_state"], found["life_situation"]) == ("lost", "other")
    assert [reason["code"] for reason in found["reasons"]] == ["overdue_service_rhythm"]
    assert (found["probability"], found["horizon_days"]) == (0.9674, 180)
    assert (await client.get(f"/v1/patients/{BORIS}/score")).status_code == 404


async def test_at_risk_puts_first_whom_it_costs_most_to_lose(
    tell: Tell, work: Work, client: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    once, dear, often, recent = (uuid.uuid4() for _ in range(4))
    long_ago = NOW - 1000 * DAY
    await tell(
        visit(clinic_id, long_ago, patient_id=once, charged_minor=1),
        visit(clinic_id, long_ago, patient_id=dear, charged_minor=900_000),
        visit(clinic_id, long_ago, patient_id=often),
        visit(clinic_id, long_ago - DAY, patient_id=often),
        visit(clinic_id, NOW - DAY, patient_id=recent),
        testing.clinic_registered(clinic_id=clinic_id, currency="RUB"),
    )
    await work()
    items = (await client.get("/v1/at-risk?limit=4")).json()["items"]
    assert [item["patient_id"] for item in items] == [str(p) for p in (often, dear, once, recent)]
    assert [item["probability"] for item in items[:3]] == [0.99] * 3


async def test_segments_count_and_list_patients_of_both_axes(
    tell: Tell, work: Work, client: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    await tell(
        testing.patient_registered(clinic_id=clinic_id, patient_id=ANNA, chronic=True),
        visit(clinic_id, NOW - DAY, outcome="healthy"),
        visit(clinic_id, NOW - DAY, outcome="healthy", patient_id=BORIS),
    )
    await work()
    found = (await client.get("/v1/segments")).json()
    counts = {(item["axis"], item["key"]): item["patients"] for item in found["items"]}
    assert len(counts) == 12
    assert counts[("treatment_state", "healthy")] == 2
    assert counts[("life_situation", "elderly_chronic")] == 1
    page = (await client.get("/v1/segments/healthy/patients?limit=1")).json()
    rest = await client.get(
        "/v1/segments/healthy/patients", params={"cursor": page["next"], "limit": 1}
    )
    ids = [item["patient_id"] for item in page["items"] + rest.json()["items"]]
    assert ids == [str(ANNA), str(BORIS)]
    assert (await client.get("/v1/segments/none/patients")).status_code == 404


async def test_target_has_versions_etags_and_an_audit_trail(
    client: httpx.AsyncClient, database: Database, clinic_id: uuid.UUID
) -> None:
    path = "/v1/targets/nps"
    assert (await client.get(path)).status_code == 404
    body = {"value": 50, "direction": "at_least", "definition": "last quarter"}
    first = await client.put(path, json=body)
    assert (first.status_code, first.json()["version"], first.headers["ETag"]) == (200, 1, '"1"')
    again = await client.put(path, json=body, headers={"If-Match": '"1"'})
    assert again.json() == first.json()
    changed = await client.put(path, json=body | {"value": 60}, headers={"If-Match": '"1"'})
    assert (changed.json()["version"], changed.headers["ETag"]) == (2, '"2"')
    stale = await client.put(path, json=body, headers={"If-Match": '"1"'})
    assert stale.status_code == 412
    read = await client.get(path)
    assert (read.json(), read.headers["ETag"]) == (changed.json(), '"2"')
    assert (await client.get(path, params={"profile": "other"})).status_code == 404
    assert (await kpis(client))["nps"]["targets"] == [changed.json()]
    async with database.transaction((clinic_id,)) as connection:
        rows = await connection.exec_driver_sql(
            "SELECT actor, action, record FROM audit_entry WHERE clinic_id = $1 ORDER BY entry_id",
            (clinic_id,),
        )
        assert [tuple(row) for row in rows] == [
            ("olga", "target.change", "target:nps:default:1"),
            ("olga", "target.change", "target:nps:default:2"),
        ]


async def test_interactions_are_counted_by_code(
    tell: Tell, client: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    sent = testing.message_sent(clinic_id=clinic_id, journey="follow-up")
    await tell(sent, testing.message_sent(clinic_id=clinic_id, journey="follow-up"))
    items = (await client.get("/v1/interactions")).json()["items"]
    assert items == [{"kind": "message.sent", "code": "follow-up", "count": 2}]
