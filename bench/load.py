"""The load: `visit.completed` events posted by keep-alive clients on a plain socket.

Bodies are made before the clock starts, so that the generator takes little of the two cores it shares
with what it measures.
"""

import asyncio
import json
import time
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

SOURCE = "//bench.example/mis"
APART = timedelta(milliseconds=5)
BATCH_TYPE = "application/cloudevents-batch+json"
SINGLE_TYPE = "application/cloudevents+json"


@dataclass(frozen=True, slots=True)
class Post:
    """One request of the load: its clinic, its body and the ids of its events."""

    clinic_id: uuid.UUID
    body: bytes
    event_ids: tuple[str, ...]


@dataclass(slots=True)
class Outcome:
    """What a run of the load saw."""

    seconds: float = 0.0
    events: int = 0
    sent_at: dict[str, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Events acknowledged a second."""
        return self.events / self.seconds


def clinics(count: int = 50) -> list[uuid.UUID]:
    """The clinics of the load, the same in every run."""
    return [uuid.uuid5(uuid.NAMESPACE_URL, f"bench-clinic-{number}") for number in range(count)]


def visit_posts(
    events: int,
    batch: int,
    of: Sequence[uuid.UUID],
    run: str,
    *,
    since: datetime,
    patients: int = 10_000,
) -> list[Post]:
    """Posts of `batch` visits each, one clinic a post.

    Args:
        events: Number of events in all.
        batch: Events a post; 1 makes single events in structured mode.
        of: Clinics, taken in turn.
        run: Makes the ids of this run differ from those of another one.
        since: When the first visit ended. It decides what follows: a visit of today has its follow-up
            before it, one of last year is history.
        patients: Size of each clinic's pool of patients.
    """
    posts = []
    for start in range(0, events, batch):
        clinic_id = of[(start // batch) % len(of)]
        bodies = [
            _visit(clinic_id, f"{run}-{number}", number, since + number * APART, patients)
            for number in range(start, start + batch)
        ]
        payload: object = bodies if batch > 1 else bodies[0]
        posts.append(
            Post(
                clinic_id,
                json.dumps(payload).encode(),
                tuple(str(body["id"]) for body in bodies),
            )
        )
    return posts


def register(origin: str, live_from: datetime, tokens: Mapping[uuid.UUID, str]) -> None:
    """Registers clinics, so that every consumer does for their visits what it is there for.

    Args:
        origin: Where booking answers, such as `http://127.0.0.1:8000`.
        live_from: What happened before it is history.
        tokens: Clinics, each with a token that may register it.
    """
    body = {
        "name": "Bench",
        "time_zone": "Europe/Moscow",
        "language": "ru",
        "country": "RU",
        "currency": "RUB",
        "live_from": live_from.isoformat(),
    }
    for clinic_id, token in tokens.items():
        request = urllib.request.Request(  # noqa: S310  (loopback)
            f"{origin}/v1/clinics/{clinic_id}",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            method="PUT",
        )
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310  (loopback)


def _visit(
    clinic_id: uuid.UUID, name: str, number: int, completed_at: datetime, patients: int
) -> dict[str, object]:
    visit_id = uuid.uuid5(clinic_id, f"bench-visit:{name}")
    patient_id = uuid.uuid5(clinic_id, f"bench-patient:{number * 7919 % patients}")
    return {
        "specversion": "1.0",
        "id": f"bench-{name}",
        "source": SOURCE,
        "type": "visit.completed.v1",
        "subject": str(visit_id),
        "time": completed_at.isoformat(),
        "datacontenttype": "application/json",
        "clinicid": str(clinic_id),
        "data": {
            "visit_id": str(visit_id),
            "appointment_id": None,
            "patient_id": str(patient_id),
            "practitioner_id": str(uuid.uuid5(clinic_id, f"bench-practitioner:{number % 10}")),
            "service_code": "dental.filling",
            "specialty_code": "dentistry",
            "kind": "procedure",
            "outcome": "treated",
            "arrived_at": (completed_at - timedelta(minutes=48)).isoformat(),
            "started_at": (completed_at - timedelta(minutes=39)).isoformat(),
            "completed_at": completed_at.isoformat(),
            "charged_minor": 780000,
            "cost_minor": 310000,
            "currency": "RUB",
        },
    }


async def post_all(
    port: int, path: str, posts: Sequence[Post], tokens: dict[uuid.UUID, str], clients: int
) -> Outcome:
    """Posts everything as fast as the clients get answers (a closed loop)."""
    outcome = Outcome()
    queue = iter(posts)

    async def client() -> None:
        connection = await Connection.open(port)
        for post in queue:
            outcome.sent_at.update(dict.fromkeys(post.event_ids, time.time()))
            await connection.post(path, post, tokens, outcome)
        connection.close()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    outcome.seconds = time.perf_counter() - started
    return outcome


async def post_steadily(
    port: int,
    path: str,
    posts: Sequence[Post],
    tokens: dict[uuid.UUID, str],
    posts_per_second: float,
) -> Outcome:
    """Posts at a fixed rate whatever the answers take (an open loop)."""
    outcome = Outcome()
    idle: list[Connection] = [await Connection.open(port) for _ in range(16)]

    async def send(post: Post) -> None:
        # A server closes what was idle for some seconds: those at the bottom of the pile.
        while idle and idle[-1].is_closed:
            idle.pop()
        connection = idle.pop() if idle else await Connection.open(port)
        outcome.sent_at.update(dict.fromkeys(post.event_ids, time.time()))
        await connection.post(path, post, tokens, outcome)
        idle.append(connection)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, post in enumerate(posts):
            await asyncio.sleep(max(0.0, started + number / posts_per_second - time.perf_counter()))
            group.create_task(send(post))
    outcome.seconds = time.perf_counter() - started
    for connection in idle:
        connection.close()
    return outcome


class Connection:
    """One keep-alive HTTP/1.1 connection; knows just enough of the protocol for this load."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connects to a server on the loopback interface."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def post(
        self, path: str, post: Post, tokens: dict[uuid.UUID, str], outcome: Outcome
    ) -> None:
        """Posts one body and notes the answer."""
        kind = BATCH_TYPE if post.body.startswith(b"[") else SINGLE_TYPE
        token = tokens.get(post.clinic_id, "")
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: {len(post.body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + post.body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status = int(answer[9:12])
        length = 0
        for line in answer.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        body = await self._reader.readexactly(length)
        if status not in {200, 202} or b'"rejected":[{' in body:
            outcome.refused.append(f"{status} {body[:300].decode(errors='replace')}")
        outcome.events += len(post.event_ids)

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed it."""
        return self._reader.at_eof()

    def close(self) -> None:
        """Closes the connection."""
        self._writer.close()
