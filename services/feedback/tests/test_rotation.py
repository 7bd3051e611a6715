"""A rotation of the key ring: everything people wrote is still readable without the old key."""

import json
import secrets
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from services.feedback.tests.conftest import SCOPES, TokenMaker
from services.feedback.tests.test_api import post, review

from feedback.app import create_app
from feedback.rotation import ENCRYPTED
from feedback.settings import Settings
from feedback.surveys.store import hash_of
from revisit_chassis import reencrypt as chassis
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.crypto import Keyring, activate_key, add_key, generate_keyring, retire_key
from revisit_chassis.db import Database
from revisit_chassis.reencrypt import Reencrypted, reencrypt
from revisit_events.testing import link_issued
from standalone.cluster import Cluster, ServiceDatabase

COMMENT = "Врач опоздал, но объяснил почему."
LISTS = ("/v1/reviews", "/v1/complaints")
REFUSED = ("rejected-events:read", "rejected-events:write")


@pytest.fixture(scope="module")
def service_database(postgres: Cluster) -> ServiceDatabase:
    """A database of its own: what other tests left is under other key rings."""
    return postgres.create("feedback")


@pytest.fixture
def ring(keys: Path, tmp_path: Path) -> Path:
    """A key ring of its own beside the session's tokens."""
    generate_keyring(tmp_path / "keyring.json")
    (tmp_path / "jwks.json").write_text((keys / "jwks.json").read_text())
    return tmp_path / "keyring.json"


@pytest.fixture
async def worker(service_database: ServiceDatabase) -> AsyncIterator[Database]:
    database = Database(service_database.worker_database_url)
    yield database
    await database.close()


@pytest.fixture
async def client(
    service_database: ServiceDatabase, ring: Path, clock: SimulatedClock, token: TokenMaker
) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings.model_validate(
        {
            "database_url": service_database.database_url,
            "jwks": str(ring.with_name("jwks.json")),
            "keyring": str(ring),
        }
    )
    app = create_app(settings, clock=clock)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=transport, base_url="http://feedback", headers=token(*SCOPES, *REFUSED)
        ) as client,
    ):
        yield client


async def test_rotation_leaves_everything_readable_without_the_old_key(
    client: httpx.AsyncClient,
    store: Any,
    worker: Database,
    ring: Path,
    clinic_id: uuid.UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chassis, "BATCH", 2)
    old_id = Keyring.load(ring).active_id
    for number in range(3):
        assert (await post(client, review(number))).status_code == 202
    assert (await post(client, review(9, rating_1_to_5=0))).status_code == 422
    page = await _answered_survey(client, store, clinic_id)
    recorded = await _record(client)
    before = [(await client.get(path)).json() for path in LISTS]

    new_id = add_key(ring)
    activate_key(ring, new_id)
    rotated = Keyring.load(ring)
    assert await reencrypt(worker, rotated, ENCRYPTED) == {
        "review.text": Reencrypted(3),
        "review.author": Reencrypted(3),
        "review.url": Reencrypted(3),
        "complaint.text": Reencrypted(2),
        "complaint.resolution_text": Reencrypted(1),
        "survey_response.comment": Reencrypted(1),
        "rejected_event.body": Reencrypted(1),
        "idempotency_key.answer": Reencrypted(1),
    }
    again = await reencrypt(worker, rotated, ENCRYPTED)
    assert set(again.values()) == {Reencrypted()}
    retire_key(ring, old_id)

    state = client._transport.app.state  # type: ignore[attr-defined]
    state.keyring = state.intake.keyring = Keyring.load(ring)
    assert [(await client.get(path)).json() for path in LISTS] == before
    assert COMMENT in json.dumps(before, ensure_ascii=False)
    assert await _record(client) == recorded
    # The page opens what was given to see what is still to be asked.
    assert (await client.get(page)).status_code == 200
    (item,) = (await client.get("/v1/rejected-events")).json()["items"]
    replayed = await client.post(f"/v1/rejected-events/{item['id']}/replays")
    assert replayed.status_code == 422


async def _answered_survey(client: httpx.AsyncClient, store: Any, clinic_id: uuid.UUID) -> str:
    secret = secrets.token_urlsafe(16)
    expires_at = store.clock.now() + timedelta(days=14)
    await store.tell(
        link_issued(clinic_id=clinic_id, token_hash=hash_of(secret), expires_at=expires_at)
    )
    answer = await client.post(f"/s/{secret}", data={"csat": "1", "comment": COMMENT})
    assert answer.status_code == 200
    return f"/s/{secret}"


async def _record(client: httpx.AsyncClient) -> Any:
    """A complaint that staff recorded and resolved; a repeat gets the stored answer."""
    answer = await client.post(
        "/v1/complaints",
        json={"cause_code": "waiting", "severity": "low", "text": "По телефону: ждала час."},
        headers={"Idempotency-Key": "k-1"},
    )
    assert answer.status_code == 201, answer.text
    resolved = await client.post(
        f"/v1/complaints/{answer.json()['complaint_id']}/resolution",
        json={"resolution_code": "apologised", "text": "Извинились."},
    )
    assert resolved.status_code in {200, 409}, resolved.text
    return answer.json()
