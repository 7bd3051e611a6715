"""Faults, each a function on a running platform with a load of its own.

The letters are those of the catalogue of faults: F1 crashes at named places, F2 kills at random, F3
frozen processes that wake up, F4 the broker gone for a while, F6 PostgreSQL, F7 repeats, F8 order, F9
poison, F11 providers, F12 two of each, F15 the broker's log lost.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.chaos.checks import GROUPS, TOPIC, Poison, Trial
from tests.chaos.ledger import BATCH, SOURCE, Load
from tests.chaos.rig import Platform

DEATH_TIMEOUT_SECONDS = 30
POSTS = 12
FROZEN_SECONDS = 8
"""Longer than a consumer's session and than a sender's lease in these trials."""
WORKERS = ("booking-worker", "engagement-worker", "feedback-worker", "scoring-worker")


@dataclass(slots=True)
class Scene:
    """What a fault works with."""

    platform: Platform
    load: Load
    trial: Trial
    random: Random
    mutant: tuple[str, str] = ("", "")

    async def restart(self, name: str, *, failpoint: str = "", slow_commits: float = 0) -> None:
        """Starts a process again, with its mutant where it has one, and waits until it is ready."""
        process, mutant = self.mutant
        await asyncio.to_thread(
            self.platform.launch,
            name,
            failpoint=failpoint,
            mutant=mutant if name == process else "",
            slow_commits=slow_commits,
        )
        if failpoint:
            await self._ready_or_dead(name)
        else:
            await self.platform.ready(name)

    async def crash(self, places: Mapping[str, str], posts: int = POSTS) -> None:
        """Lets processes die at named places under load, and starts them again."""
        await asyncio.gather(
            *(self.restart(name, failpoint=failpoint) for name, failpoint in places.items())
        )
        load = asyncio.create_task(self.load.run(posts))
        await asyncio.gather(*(self._come_back(*place) for place in places.items()))
        await load

    async def _come_back(self, name: str, failpoint: str) -> None:
        await self._death(name, failpoint)
        await self.restart(name)

    async def _ready_or_dead(self, name: str) -> None:
        running = self.platform.processes[name].running
        while running.poll() is None and not await self.platform.is_ready(name):
            await asyncio.sleep(0.05)

    async def _death(self, name: str, failpoint: str) -> None:
        deadline = time.monotonic() + DEATH_TIMEOUT_SECONDS
        while self.platform.processes[name].running.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} never came to {failpoint}")
            await asyncio.sleep(0.05)


Fault = Callable[[Scene], Awaitable[None]]


def crash_at(name: str, place: str, hits: int = 1) -> Fault:
    """A fault that ends one process at one place."""

    async def fault(scene: Scene) -> None:
        await scene.crash({name: f"{place}:{hits}"})

    return fault


async def crash_amid_letters(scene: Scene) -> None:
    """The sender dies when letters have left; no provider's key keeps a second one from leaving."""
    scene.load.step = 2
    await scene.crash({"engagement-worker": "sender.after_provider_ok:3"})


def crash_all(relay: str, sender: str, feedback: str, scoring: str) -> Fault:
    """A fault that ends each worker at a place of its own, at about the same time."""

    async def fault(scene: Scene) -> None:
        await scene.crash(
            {
                "booking-worker": relay,
                "engagement-worker": sender,
                "feedback-worker": feedback,
                "scoring-worker": scoring,
            }
        )

    return fault


async def kill_at_random(scene: Scene) -> None:
    """Any process, any moment, kill -9; once two at a time."""
    load = asyncio.create_task(scene.load.run(POSTS * 2))
    for count in (1, 2):
        await asyncio.sleep(scene.random.uniform(0.1, 0.8))
        names = scene.random.sample(sorted(set(WORKERS) | {"booking-api", "scoring-api"}), count)
        for name in names:
            await asyncio.to_thread(scene.platform.processes[name].kill)
        await asyncio.gather(*(scene.restart(name) for name in names))
    await load


async def restart_in_turn(scene: Scene) -> None:
    """SIGTERM and a new process, one after another, as an update does."""
    load = asyncio.create_task(scene.load.run(POSTS * 2))
    for name in ("booking-api", *WORKERS):
        await scene.restart(name)
    await load


async def freeze(scene: Scene) -> None:
    """Workers stand still longer than session and lease, others take over, then they wake up."""
    spares = ["engagement-worker-b", "scoring-worker-b"]
    await asyncio.gather(*(scene.restart(name) for name in spares))
    processes = scene.platform.processes
    pids = [processes[name].running.pid for name in ("engagement-worker", "scoring-worker")]
    load = asyncio.create_task(scene.load.run(POSTS))
    with scene.platform.suspended(pids[0]), scene.platform.suspended(pids[1]):
        await asyncio.sleep(FROZEN_SECONDS)
    await load
    await asyncio.gather(*(asyncio.to_thread(processes[name].stop) for name in spares))


async def pause_broker(scene: Scene) -> None:
    """The broker stands still; events are taken all the same."""
    load = asyncio.create_task(scene.load.run(POSTS))
    await asyncio.sleep(0.3)
    with scene.platform.suspended(scene.platform.broker.pid):
        await asyncio.sleep(4)
    await load


async def end_backends(scene: Scene) -> None:
    """PostgreSQL ends every connection, twice."""
    load = asyncio.create_task(scene.load.run(POSTS))
    connection = await asyncpg.connect(scene.platform.cluster.superuser_url)
    for _ in range(2):
        await asyncio.sleep(0.5)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    await connection.close()
    await load


async def kill_backend(scene: Scene) -> None:
    """kill -9 of one backend: PostgreSQL throws everybody out and recovers from its log."""
    load = asyncio.create_task(scene.load.run(POSTS))
    connection = await asyncpg.connect(scene.platform.cluster.superuser_url)
    await asyncio.sleep(0.3)
    pid = await connection.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' "
        "AND application_name LIKE 'booking%' LIMIT 1"
    )
    os.kill(pid, signal.SIGKILL)
    await load
    connection.terminate()


async def crash_postgres(scene: Scene) -> None:
    """PostgreSQL stops at once, without a checkpoint, and comes back."""
    load = asyncio.create_task(scene.load.run(POSTS))
    await asyncio.sleep(0.3)
    server = scene.platform.cluster.server
    await asyncio.to_thread(server.stop, immediate=True)
    await asyncio.to_thread(server.start)
    await load


async def repeat(scene: Scene) -> None:
    """Everything comes again, over HTTP at the same time and in the topic; one with another body."""
    await scene.load.run(POSTS // 2, duplicate_share=1)
    clinic = scene.trial.clinics[0]
    events = [e for (owner, _), e in scene.load.ledger.sent.items() if owner == clinic.id][-5:]
    headers = {"Content-Type": BATCH, "Authorization": f"Bearer {clinic.token}"}
    async with httpx.AsyncClient(timeout=10, base_url=scene.platform.url("booking")) as client:
        answers = await asyncio.gather(
            *(client.post("/v1/events", json=events, headers=headers) for _ in range(5))
        )
        assert all(answer.json()["duplicate"] == len(events) for answer in answers)
        other = events[0] | {"data": events[0]["data"] | {"charged_minor": 1}}
        answer = (await client.post("/v1/events", json=[other], headers=headers)).json()
        assert [bad["problem"]["status"] for bad in answer["rejected"]] == [409], answer
    await _repeat_topic(scene)


async def _repeat_topic(scene: Scene) -> None:
    servers = scene.platform.broker.bootstrap_servers
    partition = TopicPartition(TOPIC, 0)
    reader = AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await asyncio.gather(reader.start(), producer.start())
    try:
        reader.assign([partition])
        await reader.seek_to_beginning(partition)
        clinics = {str(clinic.id).encode() for clinic in scene.trial.clinics}
        for records in (await reader.getmany(timeout_ms=3000)).values():
            for record in records:
                if dict(record.headers).get("ce_clinicid") in clinics:
                    await producer.send(
                        TOPIC, record.value, key=record.key, headers=list(record.headers)
                    )
    finally:
        await producer.stop()
        await reader.stop()


async def late_commits(scene: Scene) -> None:
    """Transactions commit in another order than their rows were numbered."""
    await scene.restart("booking-api", slow_commits=0.3)
    await scene.load.run(POSTS * 2, clients=6)
    await scene.restart("booking-api")


async def disorder(scene: Scene) -> None:
    """An appointment is cancelled before it is booked; it stays cancelled."""
    clinic = scene.trial.clinics[-1]
    now = datetime.now(UTC)
    cancelled = _appointment(
        clinic.id,
        "cancelled",
        now - timedelta(minutes=1),
        {"by": "patient", "reason_code": "illness", "late": False},
    )
    booked = _appointment(
        clinic.id,
        "booked",
        now - timedelta(hours=1),
        {
            "practitioner_id": "D-1",
            "service_code": "therapy.consultation",
            "specialty_code": "therapy",
            "starts_at": (now + timedelta(days=3)).isoformat(),
            "ends_at": (now + timedelta(days=3, minutes=30)).isoformat(),
            "booked_at": (now - timedelta(hours=1)).isoformat(),
            "channel": "call_centre",
            "modality": "in_person",
        },
    )
    async with httpx.AsyncClient(timeout=10, base_url=scene.platform.url("booking")) as client:
        for event in (cancelled, booked):
            await scene.load.post(client, clinic, [event])
        answer = await client.get(
            "/v1/appointments/A-1", headers={"Authorization": f"Bearer {clinic.token}"}
        )
    assert not scene.load.ledger.refused, scene.load.ledger.refused
    assert answer.json()["status"] == "cancelled", answer.text
    await scene.load.run(POSTS // 3)


def _appointment(
    clinic_id: object, what: str, at: datetime, data: dict[str, object]
) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": f"chaos-{what}",
        "source": SOURCE,
        "type": f"appointment.{what}.v1",
        "subject": "A-1",
        "time": at.isoformat(),
        "clinicid": str(clinic_id),
        "data": {"appointment_id": "A-1", "patient_id": "P-1", **data},
    }


async def poison(scene: Scene) -> None:
    """Bad messages stand in the topic among good ones."""
    clinic = scene.trial.clinics[0]
    mark = f"poison-{scene.random.randrange(10**9)}"
    good = {
        "specversion": "1.0",
        "source": SOURCE,
        "type": f"{TOPIC}.v1",
        "time": datetime.now(UTC).isoformat(),
        "clinicid": str(clinic.id),
    }
    bad: list[tuple[bytes | None, dict[str, str]]] = [
        (b"{not json", good),
        (b'{"visit_id": "\\u0000"}', good),
        (b"\xff\xfe\x00", good),
        (None, good),
        (b'{"much": "' + b"x" * 600_000 + b'"}', good),
        (b"{}", good | {"type": f"{TOPIC}.v99"}),
        (b"{}", good | {"specversion": "0.3"}),
        (b"{}", good | {"time": "yesterday"}),
    ]
    load = asyncio.create_task(scene.load.run(POSTS // 2))
    producer = AIOKafkaProducer(bootstrap_servers=scene.platform.broker.bootstrap_servers)
    await producer.start()
    for number, (value, attributes) in enumerate(bad):
        event_id = f"{mark}-{number}"
        headers = [(f"ce_{name}", text.encode()) for name, text in attributes.items()]
        headers += [("ce_id", event_id.encode()), ("foreign", b"\xff\x00")]
        await producer.send_and_wait(TOPIC, value, key=b"poison", headers=headers)
        scene.trial.poison.append(Poison(event_id, GROUPS))
    await producer.stop()
    await load


async def providers_fail(scene: Scene) -> None:
    """The gateway is busy, broken, and takes messages without saying so."""
    wrong = scene.platform.providers.misbehaviour
    wrong.too_many, wrong.server_errors, wrong.accept_then_hang = 3, 3, 3
    await scene.load.run(POSTS)


async def two_of_each(scene: Scene) -> None:
    """Two workers of a service at once; then the first of them dies and the other goes on."""
    doubled = ("booking-worker", "engagement-worker", "scoring-worker")
    spares = [f"{name}-b" for name in doubled]
    await asyncio.gather(*(scene.restart(name) for name in spares))
    load = asyncio.create_task(scene.load.run(POSTS))
    await asyncio.sleep(0.5)
    for name in doubled:
        await asyncio.to_thread(scene.platform.processes[name].kill)
    await load
    await asyncio.gather(*(scene.restart(name) for name in doubled))
    processes = scene.platform.processes
    await asyncio.gather(*(asyncio.to_thread(processes[name].stop) for name in spares))


async def lose_log(scene: Scene) -> None:
    """The broker comes back empty; the outboxes fill it again."""
    load = asyncio.create_task(scene.load.run(POSTS))
    await asyncio.sleep(0.5)
    broker = scene.platform.broker
    await asyncio.to_thread(broker.stop)
    broker.lose_log()
    await asyncio.to_thread(broker.start)
    await load


SCENARIOS: Mapping[str, Fault] = {
    "F1 before the sending": crash_all(
        "relay.before_send:2",
        "sender.after_claim:1",
        "consumer.after_offsets:2",
        "consumer.before_commit:2",
    ),
    "F1 amid the sending": crash_all(
        "relay.mid_send:2",
        "sender.before_send:1",
        "consumer.after_commit:2",
        "consumer.after_offsets:2",
    ),
    "F1 after the sending": crash_all(
        "relay.after_ack:2",
        "sender.after_provider_ok:3",
        "consumer.before_commit:2",
        "consumer.after_commit:2",
    ),
    "F1 after it was noted": crash_all(
        "relay.after_delete:2",
        "sender.after_mark:1",
        "consumer.before_commit:3",
        "consumer.before_commit:1",
    ),
    "F1 amid letters": crash_amid_letters,
    "F2 kill -9": kill_at_random,
    "F2 rolling restart": restart_in_turn,
    "F3 frozen workers": freeze,
    "F4 broker pause": pause_broker,
    "F6 connections ended": end_backends,
    "F6 backend killed": kill_backend,
    "F6 PostgreSQL crash": crash_postgres,
    "F7 repeats": repeat,
    "F8 late commits": late_commits,
    "F8 disorder": disorder,
    "F9 poison": poison,
    "F11 providers fail": providers_fail,
    "F12 two of each": two_of_each,
    "F15 log lost": lose_log,
}

CAUGHT_BY: Mapping[str, tuple[str, Fault]] = {
    "cursor_relay": ("booking-worker", lose_log),
    "delete_before_ack": ("booking-worker", crash_at("booking-worker", "relay.before_send", 2)),
    "no_inbox": ("scoring-worker", repeat),
    "no_tenant_in_key": ("scoring-worker", disorder),
    "offsets_first": ("scoring-worker", crash_at("scoring-worker", "consumer.before_commit", 2)),
    "dead_letters_swallowed": ("scoring-worker", poison),
    "send_before_claim": ("engagement-worker", crash_amid_letters),
}
"""For each mutant the process it lives in and the fault that must bring it to light."""

QUICK = (
    "F8 disorder",
    "F9 poison",
    "F7 repeats",
    "F11 providers fail",
    "F4 broker pause",
    "F6 connections ended",
    "F1 after the sending",
    "F2 kill -9",
    "F15 log lost",
)
