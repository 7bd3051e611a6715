"""A clinic with patients, a sender on a real database, and providers that follow a script."""

import base64
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from engagement.channels.domain import Outgoing
from engagement.consent import usecases as consents
from engagement.consent.domain import ConsentState, Purpose, Statement
from engagement.consumers import HANDLERS
from engagement.messages.content import PublicUrls
from engagement.messages.domain import Channel, Outcome, SendResult
from engagement.messages.keys import Keys
from engagement.messages.sender import MessageSender
from engagement.messages.situation import Feed
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database
from revisit_events import testing
from revisit_events.effects import Effects
from revisit_events.envelope import AnyEvent
from standalone.cluster import ServiceDatabase

NOON = datetime(2026, 1, 15, 9, 0, tzinfo=UTC)  # noon in Moscow
LIVE_FROM = NOON - timedelta(days=30)
HOUR = timedelta(hours=1)
ALL_HEARD = Feed(is_fresh=True, heard_until=datetime.max.replace(tzinfo=UTC))
NOTHING_HEARD = Feed(is_fresh=False, heard_until=datetime.min.replace(tzinfo=UTC))

SENT = SendResult(Outcome.SENT, "ok", "p-1")
NO_ANSWER = SendResult(Outcome.RETRY, "no_answer", may_have_arrived=True)
BUSY = SendResult(Outcome.RETRY, "http_429")
REJECTED = SendResult(Outcome.REJECTED, "http_400")
UNKNOWN = SendResult(Outcome.UNCERTAIN, "smtp_connection_lost")

Before = Callable[[Outgoing], Awaitable[None]]


@dataclass
class ScriptedChannel:
    """A provider that answers by a script; what is not in it is taken.

    Args:
        answers: One a call; an exception is raised.
        places: Calls side by side.
        during: Runs inside each call, before its answer.
    """

    answers: list[SendResult | Exception] = field(default_factory=list)
    places: int = 1
    during: Before | None = None
    calls: list[Outgoing] = field(default_factory=list)

    async def send(self, outgoing: Outgoing) -> SendResult:
        self.calls.append(outgoing)
        if self.during is not None:
            await self.during(outgoing)
        answer = self.answers.pop(0) if self.answers else SENT
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None: ...


class Practice:
    """One clinic of a database, its patients, and a sender with scripted channels."""

    def __init__(
        self, database: Database, workers: Database, keyring: Path, now: datetime = NOON
    ) -> None:
        self.clinic_id = uuid.uuid4()
        self.database = database
        self.keyring = Keyring.load(keyring)
        self.clock = SimulatedClock(now)
        self.mail = ScriptedChannel()
        self.sms = ScriptedChannel()
        self.feed = ALL_HEARD
        self.keys = Keys(lambda: Keyring.load(keyring), again_after_seconds=0)
        self.sender = self.another_sender(workers)
        self._workers = workers

    def another_sender(self, workers: Database | None = None) -> MessageSender:
        return MessageSender(
            self.database,
            workers or self._workers,
            keys=self.keys,
            channels={Channel.EMAIL: self.mail, Channel.SMS: self.sms},
            urls=PublicUrls("https://e.test", "https://b.test", "https://f.test"),
            feed=lambda: self.feed,
        )

    async def open(self, **clinic: Any) -> None:
        given = {"time_zone": "Europe/Moscow", "live_from": LIVE_FROM, "country": "RU", **clinic}
        await self.apply(
            testing.clinic_registered(
                clinic_id=self.clinic_id, time=LIVE_FROM, name="Clinic & Co", **given
            )
        )

    async def apply(self, *events: AnyEvent) -> None:
        """Applies events as the consumer does."""
        await Effects("engagement", self.database, HANDLERS, self.clock).apply(events)

    async def patient(
        self, *, email: str | None = None, phone: str | None = None, **data: Any
    ) -> uuid.UUID:
        """A patient who can be reached in the ways given."""
        patient_id = uuid.uuid4()
        await self.apply(
            testing.patient_registered(
                clinic_id=self.clinic_id, time=LIVE_FROM, patient_id=patient_id, **data
            )
        )
        await self.reach(patient_id, email=email, phone=phone)
        return patient_id

    async def reach(
        self,
        patient_id: uuid.UUID,
        *,
        email: str | None = None,
        phone: str | None = None,
        at: datetime = LIVE_FROM,
    ) -> None:
        block = {"name": {"given": "Anna"}, "email": email, "phone": phone}
        await self.sealed(patient_id, json.dumps(block).encode(), at=at)

    async def sealed(
        self,
        patient_id: uuid.UUID,
        block: bytes,
        *,
        at: datetime = LIVE_FROM,
        keyring: Keyring | None = None,
    ) -> None:
        """A contact block of any content, under any key."""
        ring = keyring or self.keyring
        ciphertext = ring.encrypt(block, f"{self.clinic_id}:{patient_id}".encode())
        contact = {
            "key_id": ring.active_id,
            "ciphertext": base64.b64encode(ciphertext).decode(),
        }
        await self.apply(
            testing.patient_contact_changed(
                clinic_id=self.clinic_id, time=at, patient_id=patient_id, contact=contact
            )
        )

    async def visit(
        self, patient_id: uuid.UUID, completed_at: datetime | None = None, **data: Any
    ) -> uuid.UUID:
        """A completed visit; its follow-up is due now when nothing is said."""
        at = completed_at or self.clock.now() - timedelta(hours=25)
        visit_id = data.pop("visit_id", None) or uuid.uuid4()
        await self.apply(
            testing.visit_completed(
                clinic_id=self.clinic_id,
                time=data.pop("time", at),
                visit_id=visit_id,
                patient_id=patient_id,
                completed_at=at,
                **data,
            )
        )
        return visit_id

    async def appointment(
        self, patient_id: uuid.UUID, starts_at: datetime | None = None, **data: Any
    ) -> uuid.UUID:
        """A booked appointment; its reminder is due now when nothing is said."""
        appointment_id = data.pop("appointment_id", None) or uuid.uuid4()
        await self.apply(
            testing.appointment_booked(
                clinic_id=self.clinic_id,
                time=data.pop("time", self.clock.now() - timedelta(days=2)),
                appointment_id=appointment_id,
                patient_id=patient_id,
                starts_at=starts_at or self.clock.now() + 23 * HOUR,
                booked_at=self.clock.now() - timedelta(days=2),
                **data,
            )
        )
        return appointment_id

    async def refuse(
        self, patient_id: uuid.UUID, channel: str, purpose: Purpose = Purpose.CARE
    ) -> None:
        statement = Statement(
            purpose=purpose,
            channel=channel,
            state=ConsentState.REFUSED,
            wording_version="1",
            source="phone",
            given_at=self.clock.now(),
        )
        async with self.database.transaction((self.clinic_id,)) as connection:
            await consents.record_statements(
                connection,
                self.clinic_id,
                patient_id,
                [statement],
                by="anna",
                now=self.clock.now(),
            )

    async def execute(self, sql: str, *args: object) -> list[Any]:
        async with self.database.transaction((self.clinic_id,)) as connection:
            result = await connection.exec_driver_sql(sql, args)
            return list(result.all()) if result.returns_rows else []

    async def pause(self, scope: str) -> None:
        await self.execute(
            "INSERT INTO pause (clinic_id, scope, reason, paused_at, paused_by) "
            "VALUES ($1, $2, 'test', $3, 'anna')",
            self.clinic_id,
            scope,
            self.clock.now(),
        )

    async def hurry(self) -> None:
        """Lets every wait for a retry be over."""
        await self.execute("UPDATE message SET retry_at = '2000-01-01Z' WHERE retry_at IS NOT NULL")

    async def lapse(self) -> None:
        """Lets every lease be over, as after a crash."""
        await self.execute(
            "UPDATE message SET lease_until = '2000-01-01Z' WHERE lease_until IS NOT NULL"
        )

    async def run(self) -> int:
        await self.hurry()
        return await self.sender.run_due(self.clock)

    async def messages(self) -> Sequence[Any]:
        return await self.execute("SELECT * FROM message ORDER BY due_at, message_id")

    async def message(self) -> Any:
        (one,) = await self.messages()
        return one

    async def tasks(self) -> list[str]:
        """Reasons of the open tasks that are about messages."""
        rows = await self.execute(
            "SELECT t.reason FROM task t JOIN message m ON m.message_id = t.subject_id "
            "WHERE t.outcome IS NULL ORDER BY 1"
        )
        return [row.reason for row in rows]

    async def events(self, kind: str) -> list[Any]:
        rows = await self.execute("SELECT topic, data FROM outbox WHERE topic = $1", kind)
        return [json.loads(row.data) for row in rows]


@asynccontextmanager
async def practice(
    database: ServiceDatabase, keyring: Path, now: datetime = NOON, **clinic: Any
) -> AsyncIterator[Practice]:
    """A clinic that is open; what others left due is not its business."""
    app = Database(database.database_url, pool_size=4)
    workers = Database(database.worker_database_url, pool_size=2)
    try:
        one = Practice(app, workers, keyring, now)
        await one.open(**clinic)
        yield one
        # The sender takes what is due of any clinic: leave nothing for the next test.
        await one.execute("DELETE FROM message")
    finally:
        await app.close()
        await workers.close()
