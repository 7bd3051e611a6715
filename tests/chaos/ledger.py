"""The load and its ledger: every event id is written down before it is sent, its answer after.

A request whose answer never came may or may not exist; it is sent again with the same id until there
is an answer, as a clinic system would.
"""

import asyncio
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import httpx

SOURCE = "//chaos.example/mis"
BATCH = "application/cloudevents-batch+json"
RETRY_SECONDS = 0.2
PAUSE_SECONDS = 0.1
SERIES_TOPIC = "appointment.booked"


@dataclass(slots=True)
class Clinic:
    """A clinic of the load. Patient identifiers are the same in every clinic on purpose."""

    id: uuid.UUID
    token: str
    number: int

    def owns(self, address: str) -> bool:
        """Tells whether an address is one of this clinic's patients."""
        return address.endswith(f".c{self.number}@example.org") or address.startswith(
            f"+7900{self.number:03d}"
        )

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
    series: dict[uuid.UUID, list[str]] = field(default_factory=dict)
    """Events of one key by clinic, each acknowledged before the next one was sent."""
    retries: int = 0
    server_errors: Counter[int] = field(default_factory=Counter)
    """Answers of 500 and above."""
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


def event_of(
    clinic_id: uuid.UUID,
    event_id: str,
    kind: str,
    subject: str,
    at: datetime,
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """An event as a clinic's software writes it.

    Args:
        clinic_id: The clinic.
        event_id: Of the event.
        kind: Name without the version, `visit.completed` for instance.
        subject: The clinic's identifier of what it is about.
        at: When it happened.
        data: Of its contract.
    """
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": SOURCE,
        "type": f"{kind}.v1",
        "subject": subject,
        "time": at.isoformat(),
        "clinicid": str(clinic_id),
        "data": dict(data),
    }


def plan(starts_at: datetime, booked_at: datetime) -> dict[str, str]:
    """What a booking says of its time: half an hour."""
    return {
        "starts_at": starts_at.isoformat(),
        "ends_at": (starts_at + timedelta(minutes=30)).isoformat(),
        "booked_at": booked_at.isoformat(),
        "channel": "call_centre",
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
        self.skew = timedelta()
        """How far the sources' clocks are off, either way."""
        self.registered: int | None = None
        """Patients of each clinic, where somebody counts them."""
        self._base_url = base_url
        self._clinics = clinics
        self._random = Random(seed)
        # Numbers go by clinic: every clinic has an event chaos-1 of a patient P-1.
        self._numbers: Counter[uuid.UUID] = Counter()

    def next_number(self, clinic: Clinic) -> int:
        """The number of the next patient of a clinic."""
        return self._numbers[clinic.id] + 1

    def visit(self, clinic: Clinic, mark: str = "chaos") -> dict[str, Any]:
        """A new visit event, with a mark in its id, of a patient who has none yet."""
        number = self.next_number(clinic)
        if self.registered is not None and number > self.registered:
            raise LookupError(f"no patient is registered for visit {number}: see VISITS")
        self._numbers[clinic.id] += self.step
        completed_at = datetime.now(UTC) - timedelta(hours=26, seconds=number)
        data = {
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
        }
        at = completed_at + self.skew * (number % 3 - 1)
        return event_of(clinic.id, f"{mark}-{number}", "visit.completed", f"V-{number}", at, data)

    def booked(self, clinic: Clinic) -> dict[str, Any]:
        """The next event of the key whose order is watched: patient P-1 books once more."""
        series = self.ledger.series.setdefault(clinic.id, [])
        number = len(series) + 1
        now = datetime.now(UTC)
        starts_at = now + timedelta(days=60, minutes=number)
        series.append(f"series-{number}")
        data = {"appointment_id": f"S-{number}", "patient_id": "P-1", **plan(starts_at, now)}
        return event_of(clinic.id, f"series-{number}", SERIES_TOPIC, f"S-{number}", now, data)

    async def run(self, posts: int, *, batch: int = 5, duplicate_share: float = 0.1) -> None:
        """Posts batches, some of them twice; returns when all are acknowledged.

        There is a pause between posts, so that the load lasts while faults happen.
        """
        async with httpx.AsyncClient(timeout=10) as client:
            for turn in range(posts):
                clinic = self._clinics[turn % len(self._clinics)]
                events = [self.visit(clinic) for _ in range(batch)]
                events.append(self.booked(clinic))
                times = 2 if self._random.random() < duplicate_share else 1
                for _ in range(times):
                    await self.post(client, clinic, events)
                await asyncio.sleep(PAUSE_SECONDS)

    async def post_one(self, clinic: Clinic, *events: dict[str, Any]) -> None:
        """Posts one batch on a connection of its own until it is acknowledged."""
        async with httpx.AsyncClient(timeout=10) as client:
            await self.post(client, clinic, list(events))

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
            if answer is not None:
                self.ledger.server_errors[answer.status_code] += 1
            self.ledger.retries += 1
            await asyncio.sleep(RETRY_SECONDS)
