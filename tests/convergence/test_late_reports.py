"""A visit that is reported after the timer took it for missed ends as if it had been reported in time.

Four services on their databases, between them the events as their outboxes hold them. The same patient
lives in two clinics, told of at different times; a few days later nobody can tell the two apart.
"""

import json
import random
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from services.engagement.tests.sending import ALL_HEARD, ScriptedChannel
from tests.apps import SERVICES, Keys, handlers_of, make_app, serving, tell

from booking.usecases.no_show import NoShowTimer
from engagement.messages.content import PublicUrls
from engagement.messages.domain import Channel
from engagement.messages.keys import Keys as SenderKeys
from engagement.messages.sender import MessageSender
from engagement.tasks.schedule import TaskExpiry
from engagement.two_z.schedule import TwoZRepair
from revisit_chassis.clock import SimulatedClock
from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.envelope import AnyEvent
from revisit_events.feed import FeedStatus
from revisit_events.kafka import decode
from revisit_events.outbox import record_headers
from scoring.rescoring import Rescore
from standalone.cluster import Cluster, ServiceDatabase

START = datetime(2026, 1, 13, 9, tzinfo=UTC)
"""Of the appointment: noon in Moscow, on a Tuesday."""
END = START + timedelta(days=5)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
STEP = 6 * HOUR
BATCH = {"Content-Type": "application/cloudevents-batch+json"}
CLINIC = {
    "name": "Clinic",
    "time_zone": "Europe/Moscow",
    "language": "en",
    "country": "RU",
    "currency": "RUB",
    "live_from": "2026-01-01T00:00:00Z",
}
ENDS = {
    "booking": {
        "appointments": "SELECT status, status_at < $1, starts_at FROM appointment",
        "visits": "SELECT outcome, completed_at FROM visit",
    },
    "engagement": {
        "appointments": "SELECT status, starts_at FROM appointment",
        "visits": "SELECT outcome, completed_at FROM visit",
        "messages": "SELECT journey, step, occurrence, state, reason, due_at, expires_at, calls FROM message",
        "enrolments": "SELECT journey, version FROM enrolment",
        "links": "SELECT purpose, channel FROM link",
        # One that was opened for what proved untrue is closed; one that is open is due since it was known.
        "tasks": "SELECT reason, escalation FROM task WHERE outcome IS NULL",
    },
    "feedback": {
        "visits": "SELECT completed_at FROM visit",
        "survey links": "SELECT language FROM survey_link",
    },
    "scoring": {
        # A status says nothing where a visit names the appointment; the figures look at both.
        "appointments": "SELECT starts_at FROM appointment_fact",
        "visits": "SELECT outcome, arrived_at, started_at, completed_at, charged_minor, currency "
        "FROM visit_fact",
        "interactions": "SELECT kind, code FROM interaction_fact WHERE kind NOT LIKE 'task.%'",
        "scores": "SELECT visits, charged_minor, life_situation, treatment_state, recency, frequency, "
        "monetary, probability, band, reasons FROM score",
    },
}
Deliver = Callable[[Sequence[AnyEvent]], list[list[AnyEvent]]]


def one_by_one(events: Sequence[AnyEvent]) -> list[list[AnyEvent]]:
    return [[event] for event in events]


def backwards_and_twice(events: Sequence[AnyEvent]) -> list[list[AnyEvent]]:
    return [[event] for event in [*reversed(events), *events]]


def together_in_disorder(events: Sequence[AnyEvent]) -> list[list[AnyEvent]]:
    return [random.Random(7).sample(events, len(events))]


@dataclass(slots=True)
class Clinic:
    """One clinic of the platform: what it reports, and what became of it."""

    id: uuid.UUID
    clients: dict[str, httpx.AsyncClient]
    headers: dict[str, str]
    deliver: Deliver

    async def report(self, name: str, at: datetime, **data: Any) -> None:
        event = {
            "specversion": "1.0",
            "id": f"{name} {at.isoformat()}",
            "source": "//mis",
            "type": f"{name}.v1",
            "time": at.isoformat(),
            "data": {"appointment_id": "A-1", "patient_id": "P-1"} | data,
        }
        answer = await self.clients["booking"].post(
            "/v1/events", content=json.dumps([event]), headers=self.headers | BATCH
        )
        assert answer.json()["accepted"] == 1, answer.text

    async def ask(self, service: str, path: str) -> Any:
        answer = await self.clients[service].get(path, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()


class Platform:
    """The four services, and what a broker and their workers do, moment by moment."""

    def __init__(self, databases: dict[str, ServiceDatabase], keys: Keys) -> None:
        self.clock = SimulatedClock(START - 2 * DAY)
        self.keys = keys
        self.mail = ScriptedChannel()
        self.databases = {name: Database(one.database_url) for name, one in databases.items()}
        self.workers = {name: Database(one.worker_database_url) for name, one in databases.items()}
        self.apps = {name: make_app(name, databases[name], keys, self.clock) for name in SERVICES}
        self._told: dict[tuple[str, uuid.UUID], int] = {}
        never = FeedStatus(BrokerWatch(KafkaSettings("127.0.0.1:1")))
        ring = keys.folder / "keyring.json"
        self._work: Sequence[Any] = (
            NoShowTimer(self.workers["booking"]),
            MessageSender(
                self.databases["engagement"],
                self.workers["engagement"],
                keys=SenderKeys(lambda: Keyring.load(ring)),
                channels={Channel.EMAIL: self.mail},
                urls=PublicUrls("https://e.test", "https://b.test", "https://f.test"),
                feed=lambda: ALL_HEARD,
            ),
            TwoZRepair(self.workers["engagement"]),
            TaskExpiry(self.workers["engagement"]),
            Rescore(self.workers["scoring"], never),
        )

    async def go_to(self, moment: datetime, *clinics: Clinic) -> None:
        """Lets time pass, in steps short enough that nothing happens at a moment of another day."""
        while self.clock.now() < moment:
            self.clock.set(min(moment, self.clock.now() + STEP))
            await self.settle(*clinics)

    async def settle(self, *clinics: Clinic) -> None:
        """Delivers what was published and does what is due, until there is nothing left of either."""
        is_busy = True
        while is_busy:
            is_busy = any([await kind.run_due(self.clock) for kind in self._work])
            for clinic in clinics:
                is_busy |= await self._deliver(clinic)

    async def _deliver(self, clinic: Clinic) -> bool:
        events = [event for name in SERVICES for event in await self._published(name, clinic.id)]
        for service in SERVICES:
            for batch in clinic.deliver(events):
                wanted = [event for event in batch if type(event.data) in handlers_of(service)]
                if wanted:
                    await tell(service, self.databases[service], wanted, self.clock.now())
        return bool(events)

    async def _published(self, service: str, clinic_id: uuid.UUID) -> list[AnyEvent]:
        last = self._told.get((service, clinic_id), 0)
        rows = await self.rows(
            service,
            clinic_id,
            "SELECT * FROM outbox WHERE position > $1 ORDER BY position",
            last,
        )
        if rows:
            self._told[service, clinic_id] = rows[-1].position
        return [decode(row.topic, row.data, record_headers(row)) for row in rows]

    async def rows(
        self, service: str, clinic_id: uuid.UUID, query: str, *values: object
    ) -> list[Any]:
        async with self.databases[service].transaction([clinic_id]) as connection:
            return list((await connection.exec_driver_sql(query, values)).all())

    async def end_of(self, clinic: Clinic) -> dict[str, Any]:
        """All that the services know of a clinic, but for ids and the order of events."""
        found: dict[str, Any] = {}
        for service, queries in ENDS.items():
            for name, query in queries.items():
                values = [END] if "$1" in query else []
                rows = await self.rows(service, clinic.id, query, *values)
                found[f"{service} {name}"] = sorted(map(str, rows))
        found["2Z"] = await clinic.ask("engagement", "/v1/two-z")
        found["figures"] = await clinic.ask("scoring", "/v1/kpis")
        return found


@pytest.fixture
async def platform(postgres: Cluster, tmp_path: Path) -> AsyncIterator[Platform]:
    databases = {name: postgres.create(name) for name in SERVICES}
    made = Platform(databases, Keys.generate(tmp_path))
    yield made
    for database in (*made.databases.values(), *made.workers.values()):
        await database.close()


@asynccontextmanager
async def open_clinics(platform: Platform, *deliveries: Deliver) -> AsyncIterator[list[Clinic]]:
    """Clinics with a patient who is expected at `START`."""
    async with AsyncExitStack() as stack:
        clients = {
            name: await stack.enter_async_context(serving(app))
            for name, app in platform.apps.items()
        }
        clinics = []
        for deliver in deliveries:
            clinic_id = uuid.uuid4()
            clinic = Clinic(clinic_id, clients, platform.keys.headers(clinic_id), deliver)
            for path, body in (
                (f"/v1/clinics/{clinic_id}", CLINIC),
                (
                    "/v1/patients/P-1",
                    {"name": {"given": "Anna"}, "contacts": {"email": "anna@example.org"}},
                ),
            ):
                answer = await clients["booking"].put(path, json=body, headers=clinic.headers)
                assert answer.status_code == 201, answer.text
            await clinic.report(
                "appointment.booked",
                START - 2 * DAY,
                starts_at=START.isoformat(),
                modality="in_person",
            )
            clinics.append(clinic)
        await platform.settle(*clinics)
        yield clinics


def visit_at(completed_at: datetime) -> dict[str, Any]:
    return {
        "visit_id": "V-1",
        "arrived_at": (completed_at - 35 * MINUTE).isoformat(),
        "started_at": (completed_at - 25 * MINUTE).isoformat(),
        "completed_at": completed_at.isoformat(),
        "kind": "check_up",
        "outcome": "treated",
        "charged_minor": 250_000,
        "currency": "RUB",
    }


@pytest.mark.parametrize(
    "completed_at", [START - 20 * MINUTE, START + 40 * MINUTE], ids=["early", "on time"]
)
async def test_visit_reported_after_the_timer_ends_as_if_it_had_been_reported_in_time(
    platform: Platform, completed_at: datetime
) -> None:
    """One that was over before the planned start loses to the guess, and is told again."""
    deliveries = (one_by_one, backwards_and_twice, together_in_disorder)
    async with open_clinics(platform, one_by_one, *deliveries) as (prompt, *late):
        await platform.go_to(START + 45 * MINUTE, prompt, *late)
        await prompt.report("visit.completed", completed_at, **visit_at(completed_at))
        await platform.go_to(START + 20 * HOUR, prompt, *late)
        for clinic in late:
            assert await _statuses(platform, clinic) == {"no_show"}
            assert (await _figures(clinic))["no_show_rate"] == 1
            await clinic.report("visit.completed", completed_at, **visit_at(completed_at))
        await platform.go_to(END, prompt, *late)
        assert await _statuses(platform, prompt) == {"completed"}
        expected = await platform.end_of(prompt)
        for clinic in late:
            assert await platform.end_of(clinic) == expected
        figures = await _figures(prompt)
    assert (figures["no_show_rate"], figures["visits"]) == (0, 1)
    sent = [one.message_id for one in platform.mail.calls]
    assert len(set(sent)) == len(sent) == (1 + len(late)) * len(("reminder", "follow-up"))


async def test_visit_reported_after_its_follow_ups_time_is_counted_and_not_followed_up(
    platform: Platform,
) -> None:
    completed_at = START - 20 * MINUTE
    async with open_clinics(platform, one_by_one, one_by_one) as (prompt, late):
        await platform.go_to(START + 45 * MINUTE, prompt, late)
        await prompt.report("visit.completed", completed_at, **visit_at(completed_at))
        await platform.go_to(completed_at + 80 * HOUR, prompt, late)
        await late.report("visit.completed", completed_at, **visit_at(completed_at))
        await platform.go_to(END, prompt, late)
        in_time, too_late = [await platform.end_of(clinic) for clinic in (prompt, late)]
        journeys = "SELECT journey, state, reason FROM message ORDER BY journey"
        messages = await platform.rows("engagement", late.id, journeys)
        figures = await _figures(late)
    differ = {name for name in in_time if in_time[name] != too_late[name]}
    assert differ == {
        "engagement messages",
        "engagement links",
        "feedback survey links",
        "scoring interactions",
        # Scored at another time; and of a survey that nobody was asked no rate of answers is known.
        "scoring scores",
        "figures",
    }
    assert too_late["feedback survey links"] == []
    assert [tuple(one) for one in messages] == [
        ("follow-up", "dropped", "expired"),
        ("reminder", "sent", None),
    ]
    assert (figures["no_show_rate"], figures["visits"]) == (0, 1)


async def _figures(clinic: Clinic) -> dict[str, Any]:
    found = (await clinic.ask("scoring", "/v1/kpis"))["items"]
    return {one["kpi"]: one["value"] for one in found}


async def _statuses(platform: Platform, clinic: Clinic) -> set[str]:
    """What is said of the clinic's only appointment."""
    return {
        row.status
        for service in ("booking", "engagement")
        for row in await platform.rows(service, clinic.id, "SELECT status FROM appointment")
    }
