"""A rotation of the key ring: encrypt anew, retire the old key, and everything is still readable."""

import asyncio
import base64
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from booking.rotation import ENCRYPTED
from booking.settings import Settings
from revisit_chassis import reencrypt as chassis
from revisit_chassis.crypto import Keyring, UnknownKey, activate_key, add_key, retire_key
from revisit_chassis.reencrypt import Reencrypted, reencrypt
from standalone.cluster import Cluster, ServiceDatabase

PERSON: dict[str, Any] = {
    "name": {"given": "Анна"},
    "contacts": {"phone": "+79161234567", "email": None, "messengers": {}},
}


@pytest.fixture
def service_database(postgres: Cluster) -> ServiceDatabase:
    """A database of its own: elsewhere every test has another key ring."""
    return postgres.create("booking")


async def test_rotation_leaves_everything_readable_and_the_old_key_unused(
    client: httpx.AsyncClient,
    app: FastAPI,
    store: Any,
    keys: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chassis, "BATCH", 2)
    ring = keys / "keyring.json"
    old_id = Keyring.load(ring).active_id
    for number in range(5):
        await client.put(f"/v1/patients/P-{number}", json=PERSON)
    await client.delete("/v1/patients/P-4")
    refused: dict[str, Any] = {
        "specversion": "1.0",
        "id": "e",
        "source": "//mis",
        "type": "visit.completed.v1",
    }
    refused |= {"time": "2026-01-15T09:00:00Z", "data": {}}
    await client.post(
        "/v1/events", json=refused, headers={"Content-Type": "application/cloudevents+json"}
    )

    booked = [await _book(client, number) for number in range(3)]

    new_id = add_key(ring)
    activate_key(ring, new_id)
    rotated = Keyring.load(ring)
    assert await reencrypt(store.worker, rotated, ENCRYPTED) == {
        "patient.identity_encrypted": Reencrypted(4),
        "patient.contacts_encrypted": Reencrypted(4),
        "rejected_event.body": Reencrypted(1),
        "idempotency_key.answer": Reencrypted(3),
    }
    again = await reencrypt(store.worker, rotated, ENCRYPTED)
    assert set(again.values()) == {Reencrypted()}
    retire_key(ring, old_id)

    app.state.keyring = app.state.intake.keyring = Keyring.load(ring)
    with pytest.raises(UnknownKey):
        app.state.keyring._key(old_id)
    for number in range(4):
        read = (await client.get(f"/v1/patients/P-{number}")).json()
        assert (read["name"]["given"], read["contacts"]) == ("Анна", PERSON["contacts"])
    (item,) = (await client.get("/v1/rejected-events")).json()["items"]
    replayed = await client.post(f"/v1/rejected-events/{item['id']}/replays")
    assert replayed.status_code == 422

    assert [await _book(client, number) for number in range(3)] == booked
    assert len(await store.rows("SELECT 1 FROM appointment")) == len(booked)

    # Every stored text names the new key; so does the newest block of each patient on the topic.
    for column in ("identity_encrypted", "contacts_encrypted"):
        rows = await store.rows(
            f"SELECT {column} AS sealed FROM patient WHERE {column} IS NOT NULL"
        )
        assert {Keyring.key_id_of(row.sealed) for row in rows} == {new_id}
    newest: dict[str, tuple[Any, ...]] = {}
    for headers, data in await store.published("patient.contact_changed"):
        if data is not None:
            place = (headers["ce_time"], headers["ce_sequence"])
            newest[headers["ce_subject"]] = max(
                newest.get(headers["ce_subject"], ()), (*place, data["contact"]["ciphertext"])
            )
    assert {Keyring.key_id_of(base64.b64decode(block[2])) for block in newest.values()} == {new_id}


async def test_text_that_does_not_open_is_left_and_keeps_no_other_back(
    client: httpx.AsyncClient, store: Any, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chassis, "BATCH", 2)
    for number in range(5):
        await client.put(f"/v1/patients/P-{number}", json=PERSON)
    rows = await store.rows("SELECT patient_id FROM patient ORDER BY patient_id")
    for damaged in (rows[0].patient_id, rows[1].patient_id):
        await store.rows(
            "UPDATE patient SET contacts_encrypted = '\\x00' WHERE patient_id = :id RETURNING 1",
            id=damaged,
        )
    ring = keys / "keyring.json"
    activate_key(ring, add_key(ring))
    contacts = [one for one in ENCRYPTED if one.name == "patient.contacts_encrypted"]
    for taken in (3, 0):
        assert await reencrypt(store.worker, Keyring.load(ring), contacts) == {
            "patient.contacts_encrypted": Reencrypted(taken, unreadable=2)
        }


@pytest.mark.process
async def test_command_says_what_it_took_and_what_does_not_open(
    client: httpx.AsyncClient, store: Any, settings: Settings, keys: Path
) -> None:
    for number in range(2):
        await client.put(f"/v1/patients/P-{number}", json=PERSON)
    ring = keys / "keyring.json"
    activate_key(ring, add_key(ring))
    environment = {
        "BOOKING_WORKER_DATABASE_URL": settings.address("worker"),
        "REVISIT_KEYRING": str(ring),
    }
    assert await _command(environment) == (
        0,
        [
            "patient.identity_encrypted: 2 encrypted anew",
            "patient.contacts_encrypted: 2 encrypted anew",
            "rejected_event.body: 0 encrypted anew",
            "idempotency_key.answer: 0 encrypted anew",
        ],
    )
    await store.rows("UPDATE patient SET identity_encrypted = '\\x00' RETURNING 1")
    status, lines = await _command(environment)
    assert status == 1
    assert lines[0] == "patient.identity_encrypted: 0 encrypted anew, 2 do not open and stay"


async def _command(environment: dict[str, str]) -> tuple[int | None, list[str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "booking",
        "reencrypt",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    told, _ = await process.communicate()
    return process.returncode, told.decode().splitlines()


async def _book(client: httpx.AsyncClient, number: int) -> Any:
    answer = await client.post(
        "/v1/appointments",
        headers={"Idempotency-Key": f"k-{number}"},
        json={"patient_id": f"P-{number}", "starts_at": f"2026-02-1{number}T09:00:00Z"},
    )
    assert answer.status_code == 201, answer.text
    return answer.json()
