"""The platform as eight processes on a broker: what it does when nothing fails, and when much does."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.chaos.ledger import Clinic, Load, event_of, plan
from tests.chaos.rig import Platform
from tests.chaos.scenarios import QUICK
from tests.chaos.trials import try_faults

SEED = 20260112
WALK_SECONDS = 60
pytestmark = [
    pytest.mark.broker,
    pytest.mark.e2e,
    pytest.mark.timeout(480),
    pytest.mark.asyncio(loop_scope="session"),
]


async def test_loop_closes_from_event_to_care(platform: Platform) -> None:
    (clinic,) = await platform.register_clinics(1, 2)
    mail, text = clinic.recipient(1), clinic.recipient(2)
    load = Load(platform.url("booking"), [clinic], SEED)
    now = datetime.now(UTC)
    data = {"appointment_id": "A-1", "patient_id": "P-2", **plan(now + timedelta(days=20), now)}
    booked = event_of(clinic.id, "walk-booked", "appointment.booked", "A-1", now, data)
    for one in (load.visit(clinic), load.visit(clinic), booked):
        await load.post_one(clinic, one)
    assert not load.ledger.refused

    async with httpx.AsyncClient(timeout=10) as client:

        async def told(service: str, path: str) -> Any:
            answer = await client.get(
                platform.url(service) + path, headers={"Authorization": f"Bearer {clinic.token}"}
            )
            return answer.json() if answer.status_code == httpx.codes.OK else None

        async def are_reached() -> bool:
            return {mail, text} <= {message.to for message in platform.providers.delivered()}

        async def is_stated() -> bool:
            statement = await told("engagement", "/v1/two-z")
            numbers = [statement[name] for name in ("in_scope", "booked", "task_open")]
            return numbers == [2, 1, 1] and statement["violations"] == 0

        await _until(are_reached, "a follow-up for each visit")
        await _until(is_stated, "one patient booked and one with a task")
        letter = next(m for m in platform.providers.delivered() if m.to == mail)
        survey = letter.link("/s/")
        assert survey.startswith(platform.url("feedback"))

        async def is_open() -> bool:
            page = await client.get(survey)
            return page.status_code == httpx.codes.OK and 'name="csat"' in page.text

        await _until(is_open, "the survey behind the link")
        thanks = await client.post(survey, data={"csat": "1", "nps": "2"})
        assert thanks.status_code in {200, 303}

        async def is_cared_for() -> bool:
            tasks = await told("engagement", "/v1/tasks")
            kpis = {item["kpi"]: item for item in (await told("scoring", "/v1/kpis"))["items"]}
            return (
                "low_score" in {task["reason"] for task in tasks["items"]}
                and kpis["visits"]["value"] == 2
                and kpis["csat"]["n"] == 1
            )

        async def is_scored() -> bool:
            score = await told("scoring", "/v1/patients/P-1/score")
            return score is not None and "low_score" in {one["code"] for one in score["reasons"]}

        async def is_in_a_segment() -> bool:
            segments = await told("scoring", "/v1/segments")
            return bool(segments["items"])

        await _until(is_cared_for, "a task for the low score, and the key figures")
        await _until(is_scored, "a churn risk with its reason")
        await _until(is_in_a_segment, "a segment")
    await _is_strange_to_others(platform, clinic)


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + WALK_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, f"there never was {what}"
        await asyncio.sleep(0.1)


async def _is_strange_to_others(platform: Platform, clinic: Clinic) -> None:
    (other,) = await platform.register_clinics(1, 0)
    async with httpx.AsyncClient(timeout=10) as client:
        answer = await client.get(
            f"{platform.url('scoring')}/v1/patients/P-1/score",
            headers={"Authorization": f"Bearer {other.token}"},
        )
    assert answer.status_code == httpx.codes.NOT_FOUND


async def test_nothing_is_lost_and_nothing_comes_twice(platform: Platform) -> None:
    seed = int(os.environ.get("CHAOS_SEED", SEED))
    assert await try_faults(platform, QUICK, seed) == []
