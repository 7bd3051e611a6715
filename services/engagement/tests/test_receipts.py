"""Delivery receipts over HTTP: signed, in any order, any number of times, before or after our own note."""

import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from services.engagement.tests.sending import (
    BUSY,
    NO_ANSWER,
    REJECTED,
    SENT,
    UNKNOWN,
    Practice,
    practice,
)

from engagement.channels.domain import Outgoing
from engagement.messages import api
from revisit_chassis.crypto import generate_keyring
from revisit_chassis.http import ChassisState, create_service_app
from revisit_chassis.tokens import Verifier, generate_signing_key, jwks_of
from standalone.cluster import Cluster, ServiceDatabase

SECRET = "a shared secret"
MAIL, PHONE = "anna@example.org", "+79990000001"


@pytest.fixture(scope="module")
def engagement_database(postgres: Cluster) -> ServiceDatabase:
    return postgres.create("engagement")


@pytest.fixture
async def clinic(engagement_database: ServiceDatabase, tmp_path: Path) -> AsyncIterator[Practice]:
    generate_keyring(tmp_path / "keyring.json")
    async with practice(engagement_database, tmp_path / "keyring.json") as one:
        yield one


@pytest.fixture
async def client(clinic: Practice, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    generate_signing_key(tmp_path / "key.pem")
    (tmp_path / "jwks.json").write_text(json.dumps(jwks_of(tmp_path / "key.pem")))
    app: FastAPI = create_service_app(title="Messages")
    app.include_router(api.router)
    verifier = Verifier(str(tmp_path / "jwks.json"))
    app.state.chassis = ChassisState("engagement", clinic.database, verifier, clinic.clock)
    app.state.callback_secret = SECRET
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://engagement") as client:
        yield client


async def post(
    client: httpx.AsyncClient, body: object, *, signature: str | None = None
) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    right = hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest()
    headers = {"X-Signature": right if signature is None else signature}
    return await client.post("/v1/callbacks/gateway", content=raw, headers=headers)


async def report(client: httpx.AsyncClient, message_id: uuid.UUID, *statuses: str) -> None:
    for status in statuses:
        answer = await post(client, {"id": str(message_id), "status": status})
        assert answer.status_code == 204, answer.text


# Answers of the gateway, what it reports, then: state, delivery, open tasks, closed tasks, events.
HISTORIES: dict[str, tuple[list[Any], list[str], Any]] = {
    "delivered": ([SENT], ["delivered"], ("sent", "delivered", [], 0)),
    "delivered twice": ([SENT], ["delivered"] * 2, ("sent", "delivered", [], 0)),
    "failed": ([SENT], ["failed", "failed"], ("sent", "failed", ["unreachable"], 0)),
    "rejected": ([SENT], ["rejected"], ("sent", "failed", ["unreachable"], 0)),
    "failed late": ([SENT], ["delivered", "failed"], ("sent", "delivered", [], 0)),
    "delivered late": ([SENT], ["failed", "delivered"], ("sent", "delivered", [], 1)),
    "on its way": ([SENT], ["queued", "sent"], ("sent", None, [], 0)),
    "no answer, delivered": ([NO_ANSWER], ["delivered"], ("sent", "delivered", [], 0)),
    "no answer, failed": ([NO_ANSWER], ["failed"], ("sent", "failed", ["unreachable"], 0)),
    "busy, delivered": ([BUSY], ["delivered"], ("sent", "delivered", [], 0)),
    "refused, delivered": ([REJECTED], ["delivered"], ("dropped", None, ["unreachable"], 0)),
    "uncertain, delivered": ([NO_ANSWER, REJECTED], ["delivered"], ("sent", "delivered", [], 1)),
    "uncertain, failed": (
        [NO_ANSWER, REJECTED],
        ["failed"],
        ("sent", "failed", ["unreachable"], 1),
    ),
}


async def test_reminder_that_did_not_arrive_is_a_call_before_the_appointment(
    clinic: Practice, client: httpx.AsyncClient
) -> None:
    appointment = await clinic.appointment(await clinic.patient(phone=PHONE))
    await clinic.run()
    await report(client, (await clinic.message()).message_id, "failed")
    (task,) = await clinic.execute("SELECT next_at, due_at FROM task")
    (row,) = await clinic.execute(
        "SELECT starts_at FROM appointment WHERE appointment_id = $1", appointment
    )
    assert task.next_at <= clinic.clock.now() < task.due_at < row.starts_at


@pytest.mark.parametrize("name", HISTORIES)
async def test_receipts_end_a_message_as_they_must(
    clinic: Practice, client: httpx.AsyncClient, name: str
) -> None:
    answers, statuses, (state, delivery, tasks, closed) = HISTORIES[name]
    await clinic.visit(await clinic.patient(phone=PHONE))
    clinic.sms.answers = [*answers]
    for _ in answers:
        await clinic.run()
    calls = len(clinic.sms.calls)
    message_id = (await clinic.message()).message_id
    await report(client, message_id, *statuses)
    message = await clinic.message()
    assert (message.state, message.delivery, await clinic.tasks()) == (state, delivery, tasks)
    ended = await clinic.execute("SELECT * FROM task WHERE outcome IS NOT NULL")
    assert len(ended) == closed
    if delivery is not None:
        assert len(await clinic.events("message.sent")) == 1
        assert await clinic.run() == 0
        assert len(clinic.sms.calls) == calls
    for kind in ("message.sent", "message.failed", "message.delivered", "task.closed"):
        rows = await clinic.execute("SELECT event_id FROM outbox WHERE topic = $1", kind)
        assert len({row.event_id for row in rows}) == len(rows)


async def test_receipt_that_comes_before_the_answer_counts_once(
    clinic: Practice, client: httpx.AsyncClient
) -> None:
    await clinic.visit(await clinic.patient(phone=PHONE))

    async def fast(outgoing: Outgoing) -> None:
        await report(client, outgoing.message_id, "delivered")

    clinic.sms.during = fast
    clinic.sms.answers = [NO_ANSWER]
    await clinic.run()
    message = await clinic.message()
    assert (message.state, message.delivery, message.lease_until) == ("sent", "delivered", None)
    assert len(await clinic.events("message.sent")) == 1
    assert await clinic.run() == 0


async def test_doubt_about_a_letter_is_ended_by_a_receipt_too(
    clinic: Practice, client: httpx.AsyncClient
) -> None:
    await clinic.visit(await clinic.patient(email=MAIL))
    clinic.mail.answers = [UNKNOWN]
    await clinic.run()
    assert await clinic.tasks() == ["uncertain_delivery"]
    await report(client, (await clinic.message()).message_id, "delivered")
    assert await clinic.tasks() == []
    (closed,) = await clinic.events("task.closed")
    assert closed["outcome"] == "message_delivered"


@pytest.mark.parametrize("signature", ["", "0" * 64, "кто там".encode().hex(), "é"])
async def test_wrong_signature_is_refused_before_the_body_is_read(
    client: httpx.AsyncClient, signature: str
) -> None:
    raw = b"no json"
    headers = httpx.Headers([(b"X-Signature", signature.encode("latin-1"))])
    answer = await client.post("/v1/callbacks/gateway", content=raw, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"


async def test_wrong_signature_changes_nothing(clinic: Practice, client: httpx.AsyncClient) -> None:
    await clinic.visit(await clinic.patient(phone=PHONE))
    await clinic.run()
    body = {"id": str((await clinic.message()).message_id), "status": "delivered"}
    assert (await post(client, body, signature="f" * 64)).status_code == 401
    assert (await clinic.message()).delivery is None


async def test_without_a_secret_nothing_is_taken(client: httpx.AsyncClient) -> None:
    client._transport.app.state.callback_secret = None  # type: ignore[attr-defined]  # of httpx
    empty = hmac.new(b"", b"{}", hashlib.sha256).hexdigest()
    assert (await post(client, b"{}", signature=empty)).status_code == 401


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"no json", {"id": "x", "status": "sent"}, {"id": str(uuid.uuid4())}]
)
async def test_signed_nonsense_is_a_problem(client: httpx.AsyncClient, body: object) -> None:
    answer = await post(client, body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_unknown_message_is_answered_like_any_other(client: httpx.AsyncClient) -> None:
    await report(client, uuid.uuid4(), "delivered")


async def test_long_body_is_given_up_while_it_comes(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 16_384

    answer = await client.post("/v1/callbacks/gateway", content=endless())
    assert answer.status_code == 413
    assert sent <= 6
