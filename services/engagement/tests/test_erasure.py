"""Erasure: whatever came before and whatever comes after, nothing personal stays and nothing leaves."""

import base64
import json
import random
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from services.engagement.tests.sending import ALL_HEARD
from tests.apps import Keys, tell

from engagement.channels.domain import Outgoing
from engagement.consent import usecases as consent
from engagement.consent.domain import ConsentState, Purpose, Statement
from engagement.messages.content import PublicUrls
from engagement.messages.domain import Channel, Outcome, SendResult
from engagement.messages.keys import Keys as RereadKeys
from engagement.messages.sender import MessageSender
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database
from revisit_events import testing
from revisit_events.envelope import AnyEvent
from standalone.cluster import Cluster, ServiceDatabase

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ANNA = uuid.UUID(int=7)
EMAIL, PHONE, NAME = "anna.unmistakable@example.org", "+79160001122", "Unmistakable"


class Provider:
    """A provider that notes what it is handed and answers as it is told to."""

    places = 4

    def __init__(self) -> None:
        self.answer = SendResult(Outcome.SENT, "ok", "provider-1")
        self.taken: list[uuid.UUID] = []

    async def send(self, outgoing: Outgoing) -> SendResult:
        self.taken.append(outgoing.message_id)
        return self.answer

    async def close(self) -> None:
        pass


class Clinic:
    """A clinic with one patient, told of what happens and sending what is due."""

    def __init__(
        self, postgres: Cluster, service: ServiceDatabase, keys: Keys, clinic_id: uuid.UUID
    ) -> None:
        self.clinic_id = clinic_id
        self.clock = SimulatedClock(NOW)
        self.app = Database(service.database_url)
        self.worker = Database(service.worker_database_url)
        self.provider = Provider()
        self.keyring = Keyring.load(keys.folder / "keyring.json")
        self.sender = MessageSender(
            self.app,
            self.worker,
            keys=RereadKeys(lambda: Keyring.load(keys.folder / "keyring.json")),
            channels=dict.fromkeys(Channel, self.provider),
            urls=PublicUrls("https://e", "https://b", "https://f"),
            feed=lambda: ALL_HEARD,
        )
        self.address = (postgres.superuser_url, service.database_url.rsplit("/", 1)[1])
        self.ciphertexts: list[bytes] = []

    def contact(self, at: datetime) -> AnyEvent:
        block = json.dumps({"email": EMAIL, "phone": PHONE, "name": {"given": NAME}}).encode()
        sealed = self.keyring.encrypt(block, f"{self.clinic_id}:{ANNA}".encode())
        self.ciphertexts.append(sealed)
        return testing.patient_contact_changed(
            **self.anna(at),
            contact={
                "key_id": self.keyring.active_id,
                "ciphertext": base64.b64encode(sealed).decode(),
            },
        )

    def anna(self, at: datetime) -> dict[str, Any]:
        return {"clinic_id": self.clinic_id, "patient_id": ANNA, "time": at}

    def life(self) -> list[AnyEvent]:
        live = NOW - 9 * DAY
        return [
            testing.clinic_registered(clinic_id=self.clinic_id, time=live, live_from=live),
            testing.patient_registered(**self.anna(NOW - DAY)),
            self.contact(NOW - DAY),
            testing.visit_completed(**self.anna(NOW), appointment_id=None, completed_at=NOW),
            testing.appointment_booked(
                **self.anna(NOW), booked_at=NOW, starts_at=NOW + 2 * DAY + 3 * HOUR
            ),
        ]

    async def told(self, *events: AnyEvent) -> None:
        await tell("engagement", self.app, events, self.clock.now())

    async def send(self, until: datetime) -> None:
        """Lives on, hour by hour, and sends what is due."""
        while self.clock.now() < until:
            self.clock.set(min(until, self.clock.now() + HOUR))
            while await self.sender.run_due(self.clock):
                pass

    async def rows(self, query: str) -> list[tuple[object, ...]]:
        async with self.app.transaction([self.clinic_id]) as connection:
            return [tuple(row) for row in await connection.exec_driver_sql(query)]

    async def assert_nothing_personal_is_kept(self) -> None:
        server, database = self.address
        connection = await asyncpg.connect(server, database=database)
        tables = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' "
            "AND relnamespace = 'public'::regnamespace"
        )
        forbidden = [EMAIL, PHONE, NAME]
        for sealed in self.ciphertexts:
            forbidden += [base64.b64encode(sealed).decode(), sealed.hex()]
        for (table,) in tables:
            for (row,) in await connection.fetch(f'SELECT t::text FROM "{table}" AS t'):
                assert not [word for word in forbidden if word in row], table
        await connection.close()
        kept = "SELECT 1 FROM patient WHERE contact_ciphertext IS NOT NULL"
        assert await self.rows(kept) == []
        assert await self.rows("SELECT 1 FROM message WHERE draft IS NOT NULL") == []
        assert await self.rows("SELECT 1 FROM link") == []


@pytest.fixture
async def clinic(
    postgres: Cluster, service_database: ServiceDatabase, keys: Keys, clinic_id: uuid.UUID
) -> AsyncIterator[Clinic]:
    clinic = Clinic(postgres, service_database, keys, clinic_id)
    yield clinic
    await clinic.app.close()
    await clinic.worker.close()


async def test_sent_letter_and_text_in_doubt_leave_no_trace(clinic: Clinic) -> None:
    await clinic.told(*clinic.life())
    async with clinic.app.transaction([clinic.clinic_id]) as connection:
        no_mail = Statement(Purpose.SERVICE, "email", ConsentState.REFUSED, "1", "phone", NOW - DAY)
        await consent.record_statements(
            connection, clinic.clinic_id, ANNA, [no_mail], by="anna", now=NOW
        )
    await clinic.send(NOW + DAY)
    assert await clinic.rows("SELECT journey, channel, state FROM message WHERE calls > 0") == [
        ("follow-up", "email", "sent")
    ]
    # The gateway took the reminder or did not: it is to be asked again, with the same text.
    clinic.provider.answer = SendResult(Outcome.RETRY, "timeout", may_have_arrived=True)
    await clinic.send(NOW + DAY + 4 * HOUR)
    in_doubt = "SELECT channel FROM message WHERE waiting_for = 'answer' AND draft IS NOT NULL"
    assert await clinic.rows(in_doubt) == [("sms",)]
    assert await clinic.rows("SELECT count(*) > 0 FROM link") == [(True,)]

    calls = len(clinic.provider.taken)
    await clinic.told(testing.patient_erased(**clinic.anna(clinic.clock.now())))
    await clinic.assert_nothing_personal_is_kept()
    assert await clinic.rows("SELECT journey, state FROM message ORDER BY 1") == [
        ("follow-up", "sent"),
        ("reminder", "uncertain"),
    ]
    await clinic.told(clinic.contact(clinic.clock.now() + HOUR))
    await clinic.send(NOW + 4 * DAY)
    await clinic.assert_nothing_personal_is_kept()
    assert len(clinic.provider.taken) == calls


@pytest.mark.parametrize("seed", range(12))
async def test_in_any_order_nothing_stays_and_nothing_leaves_afterwards(
    clinic: Clinic, seed: int
) -> None:
    rng = random.Random(seed)
    erased = testing.patient_erased(**clinic.anna(NOW + DAY))
    late = [clinic.contact(NOW + 2 * DAY), clinic.contact(NOW + 3 * DAY)]
    visit = testing.visit_completed(
        **clinic.anna(NOW + DAY), appointment_id=None, completed_at=NOW + DAY
    )
    told = [*clinic.life(), erased, *late, visit]
    rng.shuffle(told)
    told += rng.sample(told, 3)
    is_erased = False
    while told:
        size = rng.randint(1, 4)
        batch, told = told[:size], told[size:]
        await clinic.told(*batch)
        is_erased = is_erased or erased in batch
        calls = len(clinic.provider.taken)
        await clinic.send(clinic.clock.now() + rng.randint(0, 16) * HOUR)
        if is_erased:
            assert len(clinic.provider.taken) == calls
            await clinic.assert_nothing_personal_is_kept()
    await clinic.send(clinic.clock.now() + 5 * DAY)
    assert await clinic.rows("SELECT 1 FROM message WHERE state IN ('scheduled', 'sending')") == []
    assert await clinic.rows("SELECT 1 FROM task WHERE outcome IS NULL") == []
    await clinic.assert_nothing_personal_is_kept()


async def test_message_in_the_providers_hands_keeps_no_text(clinic: Clinic) -> None:
    """The process died amid the call, and the patient is erased before anybody notices."""
    await clinic.told(*clinic.life())
    await clinic.rows(
        "UPDATE message SET state = 'sending', channel = 'sms', draft = 'x', attempt = 1, calls = 1, "
        "lease_until = '2026-01-01', decided_at = due_at WHERE journey = 'follow-up' RETURNING 1"
    )
    await clinic.told(testing.patient_erased(**clinic.anna(NOW + HOUR)))
    await clinic.assert_nothing_personal_is_kept()
    await clinic.send(NOW + 4 * DAY)
    assert clinic.provider.taken == []
    states = await clinic.rows("SELECT journey, state FROM message ORDER BY 1")
    assert states == [("follow-up", "uncertain"), ("reminder", "dropped")]
