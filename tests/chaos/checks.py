"""What must hold once the platform is at rest, counted from outside against the ledger."""

import asyncio
import itertools
import re
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer

from revisit_chassis.identifiers import canonical_id
from revisit_events.catalog import topic_of, types_consumed_by
from revisit_events.topics import dead_letter_topic
from tests.chaos.findings import Findings
from tests.chaos.ledger import SERIES_TOPIC, Clinic, Ledger
from tests.chaos.rig import SERVICES, Platform
from tests.chaos.unwanted import Unwanted

TOPIC = "visit.completed"
GROUPS = ("engagement", "feedback", "scoring")
"""Consumers of completed visits."""
QUIET_MS = 700
POLL_SECONDS = 0.5
REST_SECONDS = 1.0
LARGEST_MIB = 200
"""Of a process at saturation; what the imports take is shared by all of them here."""
MOST_CALLS = 8
"""Of a gateway for one message, whatever it answers."""


@dataclass(slots=True)
class Poison:
    """A message that no handler can take, put into a topic: where it must turn up again."""

    event_id: str
    groups: tuple[str, ...]


@dataclass(slots=True)
class Trial:
    """Clinics of their own on a platform, what was sent for them, and what is judged."""

    platform: Platform
    clinics: list[Clinic]
    ledger: Ledger
    poison: list[Poison] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    """Addresses that the providers refuse: their messages are dropped, and said to be."""
    unwanted: Unwanted | None = None
    is_log_lost: bool = False

    async def verdict(self, timeout_seconds: float) -> list[str]:
        """Waits until everything holds or something cannot any more; gives what does not hold."""
        deadline = time.monotonic() + timeout_seconds
        found = Findings()
        while time.monotonic() < deadline:
            found = await self._quick()
            if found.wrong:
                return found.all
            if not found.missing:
                break
            await asyncio.sleep(POLL_SECONDS)
        else:
            return found.all
        # What is sent or applied twice may come late: look again at rest, and into the topics.
        await asyncio.sleep(REST_SECONDS)
        while True:
            found = await self._quick()
            await self._topics(found)
            await self._bounds(found)
            # A lost log is filled again after its events have had their effects: that takes its time.
            if found.wrong or not found.missing or time.monotonic() > deadline:
                return found.all
            await asyncio.sleep(POLL_SECONDS)

    async def catches(self, expected: str, timeout_seconds: float) -> str | None:
        """Gives the finding that a mutant must lead to, once it can be no mere slowness.

        Args:
            expected: Pattern of the finding.
            timeout_seconds: What the same fault without the mutant was given, too.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = await self._quick()
            is_over = time.monotonic() > deadline
            for one in found.all if is_over else found.wrong:
                if re.search(expected, one):
                    return one
            if is_over:
                return None
            await asyncio.sleep(POLL_SECONDS)

    async def _quick(self) -> Findings:
        found = Findings()
        self._deliveries(found)
        if found.wrong:
            return found
        published = await self._rows("SELECT clinic_id, event_id, topic FROM outbox", *SERVICES)
        for group in GROUPS:
            await self._effects(group, published, found)
        if found.all:
            return found
        async with httpx.AsyncClient(timeout=10) as client:
            if self.unwanted is not None:
                await self.unwanted.judge_answers(client, found)
            for clinic in self.clinics:
                await self._answers(client, clinic, found)
            await self._strangers(client, found)
        await self._dead_letters(found)
        return found

    def _deliveries(self, found: Findings) -> None:
        """No patient has a message twice, and nobody has one who had no visit."""
        recipients = self._recipients()
        for to, times in self.platform.providers.repeats().items():
            if to in recipients:
                found.wrong.append(f"{to} has the same message {times} times")
        for message in self.platform.providers.delivered():
            owned = any(clinic.owns(message.to) for clinic in self.clinics)
            if owned and message.to not in recipients:
                found.wrong.append(f"{message.to} has a message and had no visit")
        if self.unwanted is not None:
            self.unwanted.judge_deliveries(found)

    def _recipients(self) -> set[str]:
        return {
            clinic.recipient(int(visit.removeprefix("V-")))
            for clinic in self.clinics
            for visit in self.ledger.visits(clinic.id)
        }

    async def _effects(
        self, group: str, published: Sequence[tuple[UUID, str, str]], found: Findings
    ) -> None:
        """Every acknowledged event had its effect in each consumer, once, and no other event had."""
        rows = await self._rows("SELECT clinic_id, event_id, type FROM chaos_effect", group)
        topics = {topic_of(event_type) for event_type in types_consumed_by(group)}
        everything = Counter((topic_of(kind), *key) for *key, kind in rows)
        due = {(topic, *key) for *key, topic in published if topic in topics}
        found.compare(f"{group}: events of all kinds", len(due & everything.keys()), len(due))
        times = Counter({k[1:]: n for k, n in everything.items() if k[0] == TOPIC})
        wanted = self.ledger.visit_events()
        found.compare(f"{group}: events applied", len(wanted & times.keys()), len(wanted))
        repeated = [key for key, count in everything.items() if count > 1]
        if repeated:
            found.wrong.append(f"{group}: {len(repeated)} events applied more than once")
        if phantoms := set(times) - self.ledger.sent.keys():
            found.wrong.append(f"{group}: {len(phantoms)} events nobody sent")

    async def _rows(self, query: str, *services: str) -> list[tuple[UUID, str, str]]:
        """Three columns of the trial's clinics, from databases of services."""
        found: list[tuple[UUID, str, str]] = []
        for service in services:
            connection = await asyncpg.connect(self.platform.superuser_url(service))
            clinics = [clinic.id for clinic in self.clinics]
            rows = await connection.fetch(f"{query} WHERE clinic_id = ANY ($1::uuid[])", clinics)
            await connection.close()
            found += [(UUID(str(row[0])), row[1], row[2]) for row in rows]
        return found

    async def _answers(self, client: httpx.AsyncClient, clinic: Clinic, found: Findings) -> None:
        """What a clinic's own people are told: visits, the 2Z statement, the messages."""
        visits = self.ledger.visits(clinic.id)
        kpis = await self._get(client, clinic, "scoring", "/v1/kpis")
        number = next(item["value"] for item in kpis["items"] if item["kpi"] == "visits")
        found.compare("visits in the key figures", int(number or 0), len(visits))
        statement = await self._get(client, clinic, "engagement", "/v1/two-z")
        found.compare("patients in the 2Z statement", statement["in_scope"], len(visits))
        if statement["violations"]:
            found.missing.append(f"{statement['violations']} violations of 2Z")
        messages, reasons = await self._messages(client, clinic)
        found.compare("follow-ups", sum(messages.values()), len(visits))
        unknown = messages["uncertain"]
        wanted = {clinic.recipient(int(visit.removeprefix("V-"))) for visit in visits}
        hopeless = len(wanted & self.refused)
        why = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
        found.compare(f"follow-ups dropped ({why})", messages["dropped"], hopeless)
        found.compare("follow-ups decided", messages["sent"] + unknown, len(visits) - hopeless)
        reached = {m.to for m in self.platform.providers.delivered()} & wanted
        if len(reached) < messages["sent"]:
            found.missing.append(f"{messages['sent']} said sent, {len(reached)} patients have one")
        found.compare(
            "follow-ups delivered or uncertain",
            min(len(reached) + unknown, len(visits) - hopeless),
            len(visits) - hopeless,
        )

    async def _strangers(self, client: httpx.AsyncClient, found: Findings) -> None:
        """With the token of another clinic nothing is read or counted."""
        clinic = self.clinics[0]
        identity = uuid.uuid4()
        stranger = Clinic(identity, self.platform.token("admin", identity), 0)
        patient = canonical_id(clinic.id, "patient", "P-1")
        kpis = await self._get(client, stranger, "scoring", "/v1/kpis")
        counted = [item["kpi"] for item in kpis["items"] if item["n"]]
        statement = await self._get(client, stranger, "engagement", "/v1/two-z")
        path = f"/v1/messages?patient_id={patient}"
        messages = await self._get(client, stranger, "engagement", path)
        tasks = await self._get(client, stranger, "engagement", "/v1/tasks")
        if counted or statement["in_scope"] or messages["items"] or tasks["items"]:
            found.wrong.append("another clinic is counted for a stranger")
        for service, path in (
            ("booking", f"/v1/patients/{patient}"),
            ("scoring", f"/v1/patients/{patient}/score"),
        ):
            answer = await client.get(
                self.platform.url(service) + path,
                headers={"Authorization": f"Bearer {stranger.token}"},
            )
            if answer.status_code != httpx.codes.NOT_FOUND:
                found.wrong.append(f"{path} tells a stranger {answer.status_code}")

    async def _messages(
        self, client: httpx.AsyncClient, clinic: Clinic
    ) -> tuple[Counter[str], Counter[str]]:
        """Gives the follow-ups by state, and the dropped ones by reason."""
        states: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        cursor: str | None = None
        while True:
            query = "?journey=follow-up&limit=200" + (f"&cursor={cursor}" if cursor else "")
            page = await self._get(client, clinic, "engagement", f"/v1/messages{query}")
            states.update(item["status"] for item in page["items"])
            reasons.update(item["reason"] for item in page["items"] if item["status"] == "dropped")
            cursor = page["next"]
            if cursor is None:
                return states, reasons

    async def _get(
        self, client: httpx.AsyncClient, clinic: Clinic, service: str, path: str
    ) -> dict[str, Any]:
        answer = await client.get(
            self.platform.url(service) + path, headers={"Authorization": f"Bearer {clinic.token}"}
        )
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body

    async def _dead_letters(self, found: Findings) -> None:
        """Poison turns up in the dead letters of its groups; trouble of the infrastructure never."""
        for group in GROUPS:
            connection = await asyncpg.connect(self.platform.superuser_url(group))
            rows = await connection.fetch(
                "SELECT headers FROM dead_letter WHERE clinic_id = ANY ($1::uuid[])",
                [clinic.id for clinic in self.clinics],
            )
            await connection.close()
            wanted = sum(group in poison.groups for poison in self.poison)
            found.compare(f"{group}: dead letters kept", len(rows), wanted)

    async def _topics(self, found: Findings) -> None:
        """The topics hold every acknowledged event, nothing that was never sent, and the poison."""
        servers, clinics = self.platform.broker.bootstrap_servers, {c.id for c in self.clinics}
        names = (TOPIC, SERIES_TOPIC, *map(dead_letter_topic, GROUPS))
        visits, series, *letters = await asyncio.gather(
            *(read_topic(servers, name) for name in names)
        )
        published = {record.event for record in visits if record.event[0] in clinics}
        wanted = self.ledger.visit_events()
        found.compare("events in the topic", len(wanted & published), len(wanted))
        poisoned = {poison.event_id for poison in self.poison}
        phantoms = {k for k in published - self.ledger.sent.keys() if k[1] not in poisoned}
        if phantoms:
            found.wrong.append(f"{len(phantoms)} events in the topic that nobody sent")
        self._order(series, found)
        for group, kept in zip(GROUPS, letters, strict=True):
            ids = {letter.event[1] for letter in kept}
            for poison in self.poison:
                if group in poison.groups and poison.event_id not in ids:
                    found.missing.append(f"{group}: {poison.event_id} is not in its dead letters")

    async def _bounds(self, found: Findings) -> None:
        """Whatever happened, queues are empty again, and what ran meanwhile has not grown without end."""
        for service in SERVICES:
            waiting = await self._rows(
                "SELECT clinic_id, position, slot FROM outbox_unsent", service
            )
            if waiting:
                found.missing.append(f"{service}: {len(waiting)} events wait in the outbox")
        for name, process in self.platform.processes.items():
            if process.poll() is None and (mib := memory_mib(process.pid)) > LARGEST_MIB:
                found.wrong.append(f"{name} has grown to {mib:.0f} MiB")
        calls = Counter(request.key for request in self.platform.providers.requests)
        if calls and max(calls.values()) > MOST_CALLS:
            found.wrong.append(f"one text message was handed over {max(calls.values())} times")

    def _order(self, records: Sequence["Seen"], found: Findings) -> None:
        """A key's events stand in the topic in the order in which they were acknowledged.

        What is sent again stands there again, so the first time counts; after a log was lost the last
        one, because a relay sends on until it notices, and then everything from the beginning.
        """
        for clinic in self.clinics:
            series = self.ledger.series.get(clinic.id, [])
            place = {event_id: number for number, event_id in enumerate(series)}
            mine = [record for record in records if record.event[0] == clinic.id]
            ids = [record.event[1] for record in mine if record.event[1] in place]
            once = (
                [*dict.fromkeys(reversed(ids))][::-1] if self.is_log_lost else [*dict.fromkeys(ids)]
            )
            inversions = sum(place[a] > place[b] for a, b in itertools.pairwise(once))
            if inversions:
                found.wrong.append(f"{inversions} inversions of a key's events in {SERIES_TOPIC}")
            homes = {(record.key, record.partition) for record in mine if record.event[1] in place}
            if len(homes) > 1:
                found.wrong.append(f"a key's events stand in {len(homes)} places of {SERIES_TOPIC}")


def memory_mib(pid: int) -> float:
    """Gives the memory of a process, of what it shares its part."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) / 1024  # type: ignore[index]  # always there


@dataclass(frozen=True, slots=True)
class Seen:
    """An event as it stands in a topic."""

    event: tuple[UUID, str]
    key: bytes | None
    partition: int


async def read_topic(bootstrap_servers: str, topic: str) -> list[Seen]:
    """Gives every event of a topic in the order of its partitions, as any client would read it."""
    # Without a group it is given every partition there is.
    reader = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap_servers, auto_offset_reset="earliest"
    )
    await reader.start()
    try:
        found: list[Seen] = []
        while batch := await reader.getmany(timeout_ms=QUIET_MS):
            for records in batch.values():
                for record in records:
                    headers = dict(record.headers)
                    clinic = headers.get("ce_clinicid", b"").decode(errors="replace")
                    if len(clinic) == 36:
                        event_id = (headers.get("ce_id") or b"").decode(errors="replace")
                        event = (UUID(clinic), event_id)
                        found.append(Seen(event, record.key, record.partition))
        return found
    finally:
        await reader.stop()
