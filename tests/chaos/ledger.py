"""The load and its ledger: every event id is written down before it is sent, its answer after.

A request whose answer never came may or may not exist; it is sent again with the same id until there
is an answer, as a clinic system would.
"""

import asyncio
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import httpx

SOURCE = "//chaos.example/mis"
BATCH = "application/cloudevents-batch+json"
RETRY_SECONDS = 0.2
PAUSE_SECONDS = 0.1


@dataclass(slots=True)
class Clinic:
    """A clinic of the load. Patient identifiers are the same in every clinic on purpose."""

    id: uuid.UUID
    token: str
    number: int

    def channel(self, patient: int) -> str:
        """How a patient is reached: every other one by mail, the others by SMS."""
        return "email" if patient % 2 else "phone"

    def recipient(self, patient: int) -> str:
        """A patient's only address."""
        if self.channel(patient) == "email":
            return f"p{patient}.c{self.number}@example.org"
        return f"+7900{self.number:03d}{patient:04d}"


@dataclass(slots=True)
class Ledger:
    """What was sent and what was acknowledged."""

    sent: dict[tuple[uuid.UUID, str], dict[str, Any]] = field(default_factory=dict)
    acknowledged: set[tuple[uuid.UUID, str]] = field(default_factory=set)
    retries: int = 0
    refused: list[str] = field(default_factory=list)

    def visit_events(self) -> set[tuple[uuid.UUID, str]]:
        """Clinic and id of the acknowledged events that complete a visit."""
        return {key for key in self.acknowledged if "completed_at" in self.sent[key]["data"]}

    def visits(self, clinic_id: uuid.UUID) -> set[str]:
        """Visit identifiers that were acknowledged for a clinic."""
        return {
            str(self.sent[key]["data"]["visit_id"])
            for key in self.visit_events()
            if key[0] == clinic_id
        }


class Load:
    """Posts visits of yesterday, whose follow-up is due now, to a booking API.

    Args:
        base_url: Address of the booking API.
        clinics: The clinics, taken in turn.
        seed: Decides everything random.
    """

    def __init__(self, base_url: str, clinics: list[Clinic], seed: int) -> None:
        self.ledger = Ledger()
        self.step = 1
        """Between the numbers of patients: with 2 there are only those who are reached by mail."""
        self._base_url = base_url
        self._clinics = clinics
        self._random = Random(seed)
        # Numbers go by clinic: every clinic has an event chaos-1 of a patient P-1.
        self._numbers: Counter[uuid.UUID] = Counter()

    def visit(self, clinic: Clinic) -> dict[str, Any]:
        """A new visit event of a patient who has none yet."""
        number = self._numbers[clinic.id] + 1
        self._numbers[clinic.id] += self.step
        completed_at = datetime.now(UTC) - timedelta(hours=26, seconds=number)
        return {
            "specversion": "1.0",
            "id": f"chaos-{number}",
            "source": SOURCE,
            "type": "visit.completed.v1",
            "subject": f"V-{number}",
            "time": completed_at.isoformat(),
            "clinicid": str(clinic.id),
            "data": {
                "visit_id": f"V-{number}",
                "patient_id": f"P-{number}",
                "practitioner_id": "D-1",
                "service_code": "therapy.consultation",
                "specialty_code": "therapy",
                "kind": "consultation",
                "outcome": "treated",
                "completed_at": completed_at.isoformat(),
                "charged_minor": 250000,
                "currency": "RUB",
            },
        }

    async def run(
        self, posts: int, *, batch: int = 5, duplicate_share: float = 0.1, clients: int = 1
    ) -> None:
        """Posts batches, some of them twice; returns when all are acknowledged.

        A client pauses between its posts, so that the load lasts while faults happen.
        """
        async with httpx.AsyncClient(timeout=10) as client:
            await asyncio.gather(
                *(
                    self._client(client, range(part, posts, clients), batch, duplicate_share)
                    for part in range(clients)
                )
            )

    async def _client(
        self, client: httpx.AsyncClient, turns: range, batch: int, duplicate_share: float
    ) -> None:
        for turn in turns:
            clinic = self._clinics[turn % len(self._clinics)]
            events = [self.visit(clinic) for _ in range(batch)]
            times = 2 if self._random.random() < duplicate_share else 1
            for _ in range(times):
                await self.post(client, clinic, events)
            await asyncio.sleep(PAUSE_SECONDS)

    async def post(
        self, client: httpx.AsyncClient, clinic: Clinic, events: list[dict[str, Any]]
    ) -> None:
        """Posts one batch until it is acknowledged."""
        for event in events:
            self.ledger.sent[clinic.id, event["id"]] = event
        while True:
            try:
                answer = await client.post(
                    f"{self._base_url}/v1/events",
                    json=events,
                    headers={"Content-Type": BATCH, "Authorization": f"Bearer {clinic.token}"},
                )
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 202:
                rejected = answer.json()["rejected"]
                self.ledger.refused += [str(bad["problem"]) for bad in rejected]
                taken = {event["id"] for event in events} - {bad["id"] for bad in rejected}
                self.ledger.acknowledged |= {(clinic.id, event_id) for event_id in taken}
                return
            if answer is not None and answer.status_code < 500:
                raise AssertionError(f"{answer.status_code}: {answer.text}")
            self.ledger.retries += 1
            await asyncio.sleep(RETRY_SECONDS)
