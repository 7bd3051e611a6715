"""Contacts at rest: encrypted, erased."""

import uuid
from typing import Any

import httpx

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
