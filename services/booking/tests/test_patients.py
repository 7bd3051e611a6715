"""Contacts at rest: encrypted, erased."""

import asyncio
import uuid
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from booking.store.patients import lock_patient

PERSON = {
    "name": {"family": "Щербакова", "given": "Анна"},
    "birth_on": "1984-05-02",
    "contacts": {"phone": "+79161234567", "email": "anna@example.org", "messengers": {"tg": "7"}},
}
SECRETS = ("Щербакова", "Анна", "79161234567", "anna@example.org")


async def everything(store: Any) -> str:
    """Every text that the clinic left anywhere in the database."""
    tables = await store.rows(
        "SELECT relname AS tablename FROM pg_class WHERE relnamespace = 'public'::regnamespace "
        "AND relkind IN ('r', 'p') AND NOT relispartition AND has_table_privilege(oid, 'SELECT')"
    )
    found = []
    for table in tables:
        found += [
            str(
                tuple(bytes(v).decode("utf-8", "replace") if isinstance(v, bytes) else v for v in r)
            )
            for r in await store.rows(f"SELECT * FROM {table.tablename}")
        ]
    assert len(found) > 1
    return "\n".join(found)


async def test_name_and_contacts_stand_nowhere_in_clear(
    client: httpx.AsyncClient, store: Any
) -> None:
    headers = {"Idempotency-Key": "k"}
    await client.put("/v1/patients/P-1", json=PERSON, headers=headers)
    read = (await client.get("/v1/patients/P-1")).json()
    assert read["name"]["family"] == "Щербакова"
    assert read["contacts"] == PERSON["contacts"]
    content = await everything(store)
    assert not [secret for secret in SECRETS if secret in content]


async def test_erasure_empties_the_row_and_the_retained_outbox(
    client: httpx.AsyncClient, store: Any
) -> None:
    await client.put("/v1/patients/P-1", json=PERSON)
    await client.put("/v1/patients/P-2", json=PERSON)
    assert (await client.delete("/v1/patients/P-1")).status_code == 204
    assert (await client.get("/v1/patients/P-1")).status_code == 404
    assert (await client.put("/v1/patients/P-1", json=PERSON)).status_code == 409
    erased, kept = (str(uuid.uuid5(store.clinic_id, f"patient:P-{n}")) for n in (1, 2))
    told = await store.published("patient.contact_changed")
    assert [data for headers, data in told if headers["ce_subject"] == erased] == [None, None]
    assert all(data for headers, data in told if headers["ce_subject"] == kept)
    rows = await store.rows(
        "SELECT identity_encrypted, contacts_encrypted FROM patient WHERE erased_at IS NOT NULL"
    )
    assert [tuple(row) for row in rows] == [(None, None)]
    identifiers = await store.rows("SELECT identifier FROM identifier WHERE noun = 'patient'")
    assert [row.identifier for row in identifiers] == ["P-2"]


async def test_the_same_again_changes_and_tells_nothing(
    client: httpx.AsyncClient, store: Any
) -> None:
    person = PERSON | {"family_id": str(uuid.uuid4()), "chronic": True}
    first = await client.put("/v1/patients/P-1", json=person)
    again = await client.put("/v1/patients/P-1", json=person)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.headers["etag"] == again.headers["etag"] == '"1"'
    assert first.json() == again.json()
    assert first.json()["patient_identifier"] == "P-1"
    by_our_id = await client.put(f"/v1/patients/{first.json()['patient_id']}", json=person)
    assert by_our_id.json() == first.json()
    for topic in ("patient.registered", "patient.contact_changed"):
        assert len(await store.published(topic)) == 1
    assert await store.published("patient.updated") == []


async def test_only_what_changed_is_told_and_nothing_else_is_lost(
    client: httpx.AsyncClient, store: Any
) -> None:
    steps: tuple[dict[str, Any], ...] = (
        {},
        {"chronic": True},
        {"birth_on": "1984-06-02"},
        {"contacts": {"phone": "+79161234568"}},
    )
    said: dict[str, Any] = dict(PERSON)
    told = []
    for number, step in enumerate(steps, start=1):
        said |= step
        answer = await client.put("/v1/patients/P-1", json=said)
        assert answer.headers["etag"] == f'"{number}"'
        read = (await client.get("/v1/patients/P-1")).json()
        assert read["name"] | said["name"] == read["name"]
        assert (read["birth_on"], read["chronic"]) == (
            said["birth_on"],
            said.get("chronic", False),
        )
        assert read["contacts"]["phone"] == said["contacts"]["phone"]
        topics = ("patient.registered", "patient.updated", "patient.contact_changed")
        told.append([len(await store.published(topic)) for topic in topics])
    assert told == [[1, 0, 1], [1, 1, 1], [1, 1, 1], [1, 1, 2]]


@pytest.mark.parametrize("is_known", [False, True])
async def test_who_comes_second_waits_and_sees_what_the_first_did(
    store: Any, app: FastAPI, client: httpx.AsyncClient, *, is_known: bool
) -> None:
    patient_id = uuid.uuid5(store.clinic_id, "patient:P-1")
    if is_known:
        await client.put("/v1/patients/P-1", json=PERSON)
    keyring = app.state.keyring

    async def second() -> int:
        async with store.database.transaction((store.clinic_id,)) as connection:
            found = await lock_patient(connection, keyring, store.clinic_id, patient_id)
            return found.version

    async with store.database.transaction((store.clinic_id,)) as connection:
        before = await lock_patient(connection, keyring, store.clinic_id, patient_id)
        waiting = asyncio.create_task(second())
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done
        await connection.exec_driver_sql(
            "UPDATE patient SET version = 7 WHERE patient_id = $1", (patient_id,)
        )
    assert before.version == int(is_known)
    assert await waiting == 7
