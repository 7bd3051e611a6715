"""Consent: what stands, the ledger and its chain, and both over HTTP."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy.exc import DBAPIError
from tests.apps import Keys, tell

from engagement.consent import store, usecases
from engagement.consent.domain import (
    GENESIS,
    ConsentState,
    Entry,
    Purpose,
    Statement,
    entry_hash,
    first_break,
    stands_over,
)
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_chassis.identifiers import canonical_id
from revisit_events import testing
from standalone.cluster import Cluster, ServiceDatabase

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
YEAR = timedelta(days=365)
CLINIC, PATIENT = uuid.UUID(int=1), uuid.UUID(int=2)
GRANT = Statement(Purpose.CARE, "sms", ConsentState.GRANTED, "care-1", "paper_form", NOW)
REFUSAL = replace(GRANT, state=ConsentState.REFUSED, source="preferences_page")


def said(statement: Statement, at: datetime, recorded_at: datetime | None = None) -> Entry:
    return Entry(replace(statement, given_at=at), recorded_at or at)


def stands(entries: Sequence[Entry]) -> Entry | None:
    standing: Entry | None = None
    for entry in entries:
        standing = entry if stands_over(entry, standing) else standing
    return standing


def test_later_statement_stands_in_whatever_order_they_arrive() -> None:
    entries = [said(GRANT, NOW), said(REFUSAL, NOW + MINUTE), said(GRANT, NOW + 2 * MINUTE)]
    assert {stands(order) for order in permutations(entries)} == {entries[-1]}


def test_refusal_stands_over_a_grant_of_the_same_moment() -> None:
    entries = [said(GRANT, NOW), said(REFUSAL, NOW)]
    assert {stands(order) for order in permutations(entries)} == {entries[1]}


def test_refusal_stands_over_a_grant_dated_ahead_of_it() -> None:
    ahead = said(GRANT, NOW + YEAR, recorded_at=NOW)
    refusal = said(REFUSAL, NOW + MINUTE)
    assert {stands(order) for order in permutations([ahead, refusal])} == {refusal}


def chain_of(entries: Sequence[Entry]) -> list[tuple[int, Entry, str]]:
    head, rows = GENESIS, []
    for position, entry in enumerate(entries, 1):
        head = entry_hash(head, CLINIC, PATIENT, position, entry)
        rows.append((position, entry, head))
    return rows


@pytest.mark.parametrize(
    "change",
    [
        {"statement": replace(GRANT, state=ConsentState.REFUSED)},
        {"statement": replace(GRANT, purpose=Purpose.ADVERTISING)},
        {"statement": replace(GRANT, channel="email")},
        {"statement": replace(GRANT, wording_version="care-2")},
        {"statement": replace(GRANT, source="web")},
        {"statement": replace(GRANT, given_at=NOW - MINUTE)},
        {"recorded_at": NOW - MINUTE},
    ],
)
def test_change_of_anything_that_was_said_breaks_the_chain(change: dict[str, Any]) -> None:
    rows = chain_of([said(REFUSAL, NOW - YEAR), Entry(GRANT, NOW), said(REFUSAL, NOW + MINUTE)])
    head = (3, rows[-1][2])
    assert first_break(CLINIC, PATIENT, rows, head) is None
    rows[1] = (2, replace(rows[1][1], **change), rows[1][2])
    assert first_break(CLINIC, PATIENT, rows, head) == 2


def test_chain_that_was_cut_or_reordered_shows() -> None:
    rows = chain_of([said(GRANT, NOW), said(REFUSAL, NOW + MINUTE)])
    head = (2, rows[-1][2])
    assert first_break(CLINIC, PATIENT, rows[:1], head) == 2
    assert first_break(CLINIC, PATIENT, rows[1:], head) == 1
    assert first_break(CLINIC, PATIENT, rows[::-1], head) == 1
    assert first_break(CLINIC, uuid.UUID(int=3), rows, head) == 1


PATH = "/v1/patients/P-1/consents"


def consent(**changes: object) -> dict[str, object]:
    return {
        "purpose": "care",
        "channel": "sms",
        "state": "granted",
        "wording_version": "care-1",
        "source": "paper_form",
        "given_at": NOW.isoformat(),
    } | changes


async def put(site: httpx.AsyncClient, *consents: dict[str, object]) -> httpx.Response:
    return await site.put(PATH, json={"consents": list(consents)})


async def states(site: httpx.AsyncClient) -> dict[tuple[str, str], str]:
    answer = await site.get(PATH)
    assert answer.status_code == 200
    return {(one["purpose"], one["channel"]): one["state"] for one in answer.json()["consents"]}


async def test_statements_are_kept_and_the_latest_stands(
    site: httpx.AsyncClient, clinic_id: uuid.UUID
) -> None:
    assert (await site.get(PATH)).json()["consents"] == []
    answer = await put(site, consent(), consent(channel="email", state="refused"))
    assert answer.status_code == 200
    assert answer.json()["patient_id"] == str(canonical_id(clinic_id, "patient", "P-1"))
    late = (NOW - MINUTE).isoformat()
    await put(site, consent(given_at=late, state="refused", source="phone"))
    assert await states(site) == {("care", "sms"): "granted", ("care", "email"): "refused"}


async def test_statement_sent_again_adds_nothing(site: httpx.AsyncClient) -> None:
    first = (await put(site, consent(), consent())).json()
    assert (await put(site, consent())).json() == first
    ledger = (await site.get(PATH)).json()["ledger"]
    assert (ledger["length"], ledger["broken_at"]) == (1, None)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"channel": "pigeon"}, "/consents/1/channel"),
        ({"purpose": "gossip"}, "/consents/1/purpose"),
        ({"state": "maybe"}, "/consents/1/state"),
        ({"wording_version": ""}, "/consents/1/wording_version"),
        ({"source": "\x00"}, "/consents/1/source"),
        ({"given_at": "2026-03-02T09:00:00"}, "/consents/1/given_at"),
        ({"given_at": (NOW + 6 * MINUTE).isoformat()}, "/consents/1/given_at"),
        ({"given_at": (NOW + YEAR).isoformat()}, "/consents/1/given_at"),
    ],
)
async def test_what_makes_no_sense_is_refused_whole_with_the_fields_name(
    site: httpx.AsyncClient, change: dict[str, object], pointer: str
) -> None:
    answer = await put(site, consent(), consent(**change))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert await states(site) == {}


async def test_grant_by_a_clock_that_is_fast_does_not_outlive_a_refusal(
    site: httpx.AsyncClient, clock: SimulatedClock
) -> None:
    assert (await put(site, consent(given_at=(NOW + 5 * MINUTE).isoformat()))).status_code == 200
    clock.set(NOW + MINUTE)
    now = clock.now().isoformat()
    assert (await put(site, consent(state="refused", given_at=now))).status_code == 200
    assert await states(site) == {("care", "sms"): "refused"}


async def test_scope_is_needed_and_another_clinic_sees_nothing(
    site: httpx.AsyncClient, keys: Keys, clinic_id: uuid.UUID
) -> None:
    await put(site, consent())
    stranger = keys.headers(uuid.uuid4())
    assert (await site.get(PATH, headers=stranger)).json()["consents"] == []
    for headers, code in (({"authorization": ""}, 401), (keys.headers(None), 403)):
        assert (await site.get(PATH, headers=headers)).status_code == code
    clinic_system = keys.headers(clinic_id, "clinic_system")
    assert (await site.get(PATH, headers=clinic_system)).status_code in {200, 403}


async def test_change_is_published_once(
    site: httpx.AsyncClient, database: Database, clinic_id: uuid.UUID
) -> None:
    for _ in range(2):
        await put(site, consent())
        await put(site, consent(state="refused"))
    async with database.transaction([clinic_id]) as connection:
        count = await connection.exec_driver_sql(
            "SELECT count(*) FROM outbox WHERE clinic_id = $1 AND topic = 'consent.changed'",
            (clinic_id,),
        )
        assert count.scalar_one() == 2


async def damage(postgres: Cluster, service_database: ServiceDatabase, statement: str) -> None:
    """What only somebody with the superuser's password can do: no user of the service may."""
    database = service_database.database_url.rsplit("/", 1)[1]
    connection = await asyncpg.connect(postgres.superuser_url, database=database)
    await connection.execute(statement)
    await connection.close()


@pytest.mark.parametrize(
    ("what", "broken_at"),
    [
        ("UPDATE consent_entry SET state = 'granted' WHERE patient_id = '{}' AND position = 2", 2),
        ("UPDATE consent_entry SET recorded_at = now() WHERE patient_id = '{}'", 1),
        ("DELETE FROM consent_entry WHERE patient_id = '{}' AND position = 3", 3),
        ("DELETE FROM consent_entry WHERE patient_id = '{}'", 1),
    ],
)
async def test_tampering_and_truncation_are_noticed(
    site: httpx.AsyncClient,
    postgres: Cluster,
    service_database: ServiceDatabase,
    clinic_id: uuid.UUID,
    what: str,
    broken_at: int,
) -> None:
    for minutes, state in enumerate(("granted", "refused", "granted")):
        at = (NOW - YEAR + minutes * MINUTE).isoformat()
        await put(site, consent(state=state, given_at=at))
    assert (await site.get(PATH)).json()["ledger"]["broken_at"] is None
    patient = canonical_id(clinic_id, "patient", "P-1")
    await damage(postgres, service_database, what.format(patient))
    assert (await site.get(PATH)).json()["ledger"]["broken_at"] == broken_at


@pytest.mark.parametrize(
    "verb", ["UPDATE consent_entry SET state = 'x'", "DELETE FROM consent_entry"]
)
async def test_ledger_is_append_only_for_the_service(
    database: Database, clinic_id: uuid.UUID, verb: str
) -> None:
    with pytest.raises(DBAPIError, match="permission denied"):
        async with database.transaction([clinic_id]) as connection:
            await connection.exec_driver_sql(verb)


async def test_erasure_leaves_the_chain_verifiable_and_lets_it_grow(
    site: httpx.AsyncClient, database: Database, clinic_id: uuid.UUID
) -> None:
    await put(site, consent())
    before = (await site.get(PATH)).json()["ledger"]
    patient = canonical_id(clinic_id, "patient", "P-1")
    erased = testing.patient_erased(clinic_id=clinic_id, patient_id=patient, time=NOW)
    await tell("engagement", database, [erased], NOW)
    assert (await site.get(PATH)).json()["ledger"] == before
    await put(site, consent(state="refused"))
    ledger = (await site.get(PATH)).json()["ledger"]
    assert (ledger["length"], ledger["broken_at"]) == (2, None)


async def test_statements_at_once_make_one_chain(database: Database, clinic_id: uuid.UUID) -> None:
    patient = uuid.uuid4()

    async def record(number: int) -> None:
        async with database.transaction([clinic_id]) as connection:
            one = replace(GRANT, given_at=NOW + number * MINUTE)
            await usecases.record_statements(
                connection, clinic_id, patient, [one], by="anna", now=NOW + YEAR
            )

    await asyncio.gather(*(record(number) for number in range(6)))
    async with database.transaction([clinic_id]) as connection:
        ledger = await usecases.verified_ledger(connection, clinic_id, patient)
        (standing,) = await store.standing(connection, clinic_id, patient)
    assert (ledger.length, ledger.broken_at) == (6, None)
    assert standing.statement.given_at == NOW + 5 * MINUTE
