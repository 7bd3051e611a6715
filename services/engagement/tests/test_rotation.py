"""A rotation of the key ring: contacts and the drafts of messages in flight outlive the old key."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from services.engagement.tests.sending import NO_ANSWER, Practice

from engagement.rotation import ENCRYPTED
from revisit_chassis import reencrypt as chassis
from revisit_chassis.crypto import Keyring, activate_key, add_key, retire_key
from revisit_chassis.db import Database
from revisit_chassis.reencrypt import Reencrypted, reencrypt
from standalone.cluster import Cluster, ServiceDatabase


@pytest.fixture(scope="module")
def service_database(postgres: Cluster) -> ServiceDatabase:
    """A database of its own: what other tests left is under other key rings."""
    return postgres.create("engagement")


@pytest.fixture
async def worker(service_database: ServiceDatabase) -> AsyncIterator[Database]:
    database = Database(service_database.worker_database_url)
    yield database
    await database.close()


async def test_rotation_loses_no_address_and_changes_no_word_of_a_message_in_flight(
    clinic: Practice, worker: Database, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chassis, "BATCH", 2)
    old_id = Keyring.load(keyring).active_id
    await clinic.visit(await clinic.patient(phone="+79160000000"))
    clinic.sms.answers = [NO_ANSWER]
    await clinic.run()
    for number in range(1, 4):
        await clinic.patient(email=f"{number}@example.org")
    reached = await clinic.patient(email="anna@example.org")
    damaged = await clinic.patient()
    await clinic.execute(
        "UPDATE patient SET contact_ciphertext = '\\x01' WHERE patient_id = $1", damaged
    )

    new_id = add_key(keyring)
    activate_key(keyring, new_id)
    rotated = Keyring.load(keyring)
    assert await reencrypt(worker, rotated, ENCRYPTED) == {
        "patient.contact_ciphertext": Reencrypted(5, unreadable=1),
        "message.draft": Reencrypted(1),
    }
    again = await reencrypt(worker, rotated, ENCRYPTED)
    assert {column: what.taken for column, what in again.items()} == dict.fromkeys(again, 0)
    retire_key(keyring, old_id)
    # The worker is restarted, as the runbook says.
    clinic.keyring = Keyring.load(keyring)
    clinic.keys._ring = Keyring.load(keyring)

    await clinic.visit(reached)
    await clinic.run()
    first, repeated = clinic.sms.calls
    assert (repeated.to, repeated.content.text) == (first.to, first.content.text)
    (mail,) = clinic.mail.calls
    assert mail.to == "anna@example.org"
    assert {message.state for message in await clinic.messages()} == {"sent"}


async def test_block_that_booking_tells_again_stands_over_what_was_encrypted_anew(
    clinic: Practice, worker: Database, keyring: Path
) -> None:
    patient = await clinic.patient(email="old@example.org")
    activate_key(keyring, add_key(keyring))
    rotated = Keyring.load(keyring)
    await reencrypt(worker, rotated, ENCRYPTED)
    block: dict[str, Any] = {"name": {"given": "Anna"}, "email": "new@example.org"}
    await clinic.sealed(patient, json.dumps(block).encode(), at=clinic.clock.now(), keyring=rotated)
    await clinic.visit(patient)
    await clinic.run()
    assert [mail.to for mail in clinic.mail.calls] == ["new@example.org"]
