"""A running API whose clinics have a history: an event of every type, the same ids in every clinic."""

import asyncio
import json
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
from msgspec.structs import replace

from feedback.surveys.domain import POST_VISIT
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.db import Database
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.catalog import CATALOG
from revisit_events.envelope import AnyEvent, new_event
from revisit_events.feed import FeedStatus
from revisit_events.kafka import attributes
from revisit_events.shapes import id_fields
from revisit_events.testing import BUILDERS, NOON
from scoring.domain.segments import LifeSituation, TreatmentState
from scoring.rescoring import Rescore
from standalone.cluster import ServiceDatabase
from tests.apps import Keys, handlers_of, tell

SECRET_OF = {uuid.UUID(int=0xAA): "Neighbour-7431"}
"""The family name of a clinic's patient; elsewhere it is Doe."""
NOW = NOON + timedelta(days=2)
BATCH = "application/cloudevents-batch+json"
MOST_IDS = 16
STEPS = (
    "confirmation",
    "rescheduling",
    "cancellation",
    "arrival",
    "start",
    "no-show",
    "completion",
)


@dataclass(slots=True)
class Site:
    """A running API and its database."""

    service: str
    database: ServiceDatabase
    superuser_url: str
    client: httpx.Client
    keys: Keys
    operations: list[Any]

    def headers(self, clinic_id: uuid.UUID) -> dict[str, str]:
        """Gives the header of a clinic's admin."""
        return self.keys.headers(clinic_id)


def events_of(clinic_id: uuid.UUID, service: str, salt: str) -> list[AnyEvent]:
    """An event of every type that comes to a service, from wherever; ids are equal in all clinics."""
    found = []
    for contract in CATALOG.values():
        if service not in (contract.OWNER, *contract.CONSUMERS) or contract.TYPE not in BUILDERS:
            continue
        if "erased" in contract.TYPE or "token." in contract.TYPE:
            continue
        ids: dict[str, Any] = {
            name: uuid.uuid5(uuid.NAMESPACE_OID, f"{name}{salt}")
            for name in id_fields(contract)
            if name.endswith("_id")
        }
        event_id = f"{contract.TYPE}{salt}"
        if ids.pop("clinic_id", None) is None:
            found.append(BUILDERS[contract.TYPE](clinic_id=clinic_id, id=event_id, **ids))
            continue
        data = replace(BUILDERS[contract.TYPE]().data, clinic_id=clinic_id)
        found.append(
            new_event(data, source="/booking", clinic_id=clinic_id, time=NOON, id=event_id)
        )
    return found


def fill(site: Site, clinic_id: uuid.UUID, salt: str = "") -> None:
    """Gives a clinic a history."""
    events = events_of(clinic_id, site.service, salt)
    if any(operation.path == "/v1/events" for operation in site.operations):
        posted = [
            attributes(e) | {"data": json.loads(e.data_json())}
            for e in events
            if site.service == e.data.OWNER
        ]
        answer = site.client.post(
            "/v1/events",
            content=json.dumps(posted),
            headers=site.headers(clinic_id) | {"Content-Type": BATCH},
        )
        assert answer.status_code == 202, answer.text
    if site.service == "booking":
        _fill_booking(site, clinic_id)
    consumed = [event for event in events if type(event.data) in handlers_of(site.service)]

    async def consume() -> None:
        database = Database(site.database.database_url, pool_size=1)
        await tell(site.service, database, consumed, NOW)
        await database.close()
        if site.service == "scoring":
            await _score(site)
            site.client.put(
                "/v1/targets/visits",
                headers=site.headers(clinic_id),
                json={"value": 100, "direction": "at_least"},
            ).raise_for_status()

    asyncio.run(consume())


def appointment_for(step: str) -> str:
    """The id of the appointment that is ready for a step of its life."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"appointment-{step}"))


async def _score(site: Site) -> None:
    database = Database(site.database.worker_database_url)
    work = Rescore(database, FeedStatus(BrokerWatch(KafkaSettings("127.0.0.1:1"))))
    while await work.run_due(SimulatedClock(NOW)):
        pass
    await database.close()


def _fill_booking(site: Site, clinic_id: uuid.UUID) -> None:
    secret = SECRET_OF.get(clinic_id, "Doe")
    answer = site.client.put(
        f"/v1/patients/{uuid.uuid5(uuid.NAMESPACE_OID, 'patient_id')}",
        headers=site.headers(clinic_id),
        json={
            "name": {"family": secret, "given": secret},
            "language": "en",
            "contacts": {"email": f"{secret.lower()}@example.org"},
        },
    )
    assert answer.status_code < 300, answer.text
    for step in STEPS:
        # An appointment for each step of its life, the same ids in every clinic.
        name = appointment_for(step)
        starts_in = timedelta(hours=-1 if step == "no-show" else 1)
        answer = site.client.post(
            "/v1/appointments",
            headers=site.headers(clinic_id),
            json={
                "appointment_id": name,
                "patient_id": str(uuid.uuid5(uuid.NAMESPACE_OID, "patient_id")),
                "starts_at": (NOW + starts_in).isoformat(),
            },
        )
        assert answer.status_code < 300 or answer.status_code == 409, answer.text
        for before in {"start": ["arrival"], "completion": ["arrival", "start"]}.get(step, []):
            site.client.post(
                f"/v1/appointments/{name}/{before}", headers=site.headers(clinic_id), json={}
            )


async def ids_of(site: Site, clinic_id: uuid.UUID) -> dict[str, list[str]]:
    """Ids of a clinic's rows by the name of their column."""
    connection = await asyncpg.connect(site.superuser_url)
    found: dict[str, set[str]] = {
        "key": {POST_VISIT, *LifeSituation, *TreatmentState},
        "kpi": {"visits"},
        "scope": {"clinic", "channel:sms"},
        "clinic_id": {str(clinic_id)},
    }
    for table, column in await _columns(connection):
        rows = await connection.fetch(
            f'SELECT DISTINCT "{column}"::text AS id FROM "{table}" WHERE clinic_id = $1 LIMIT 20',
            clinic_id,
        )
        found.setdefault(column, set()).update(row["id"] for row in rows if row["id"])
    await connection.close()
    return {name: sorted(values)[:MOST_IDS] for name, values in found.items()}


async def _columns(connection: Any) -> list[tuple[str, str]]:
    rows = await connection.fetch(
        "SELECT table_name, column_name FROM information_schema.columns c "
        "JOIN pg_class ON oid = format('public.%I', table_name)::regclass AND NOT relispartition "
        "WHERE table_schema = 'public' AND data_type = 'uuid' AND column_name <> 'clinic_id' "
        "AND EXISTS (SELECT 1 FROM information_schema.columns o WHERE o.table_name = c.table_name "
        "AND o.column_name = 'clinic_id')"
    )
    return [(row["table_name"], row["column_name"]) for row in rows]
