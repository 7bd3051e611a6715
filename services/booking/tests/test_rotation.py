"""A rotation of the key ring: encrypt anew, retire the old key, and everything is still readable."""

import base64
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from booking.usecases.rotation import encrypt_anew
from revisit_chassis import reencrypt
from revisit_chassis.crypto import Keyring, UnknownKey, activate_key, add_key, retire_key
from standalone.cluster import Cluster, ServiceDatabase

PERSON: dict[str, Any] = {
    "name": {"given": "Анна"},
    "contacts": {"phone": "+79161234567", "email": None, "messengers": {}},
}


@pytest.fixture(scope="module")
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
    monkeypatch.setattr(reencrypt, "BATCH", 2)
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

    new_id = add_key(ring)
    activate_key(ring, new_id)
    rotated = Keyring.load(ring)
    counts = await encrypt_anew(store.worker, rotated)
    assert counts == {"patient.identity": 4, "patient.contacts": 4, "rejected_event.body": 1}
    assert set((await encrypt_anew(store.worker, rotated)).values()) == {0}
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
