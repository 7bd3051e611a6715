"""Faults, each a function on a running platform with a load of its own.

The letters are those of the catalogue of faults: F1 crashes at named places, F2 kills at random, F3
frozen processes that wake up, F4 the broker gone for a while, F5 splits of the network, F6 PostgreSQL,
F7 repeats, F8 order and clocks, F9 poison, F11 providers, F12 two of each, F15 the broker's log lost.
"""

import asyncio
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.chaos import crashes, outages
from tests.chaos.asking import asking
from tests.chaos.checks import TOPIC
from tests.chaos.ledger import BATCH, event_of, plan
from tests.chaos.poison import handler_always_kills, handler_kills, poison
from tests.chaos.process import COMMITS_LATE, LATE_SECONDS, PRODUCT_SESSION_MS
from tests.chaos.rebuilding import rebuild
from tests.chaos.rig import CALLBACK_SECRET
from tests.chaos.scene import POSTS, PROCESSES, Fault, Scene

FROZEN_SECONDS = 8
REJOIN_SECONDS = 6.0
"""Longer than a consumer's session and than a sender's lease in these trials."""
REPEAT_QUIET_MS = 500
RECEIPTS = 4
LATE_TURNS = 4
_IS_NUMBERED_BEFORE = """
WITH visits AS (
  SELECT event_id, position FROM outbox
  WHERE topic = 'visit.completed' AND clinic_id = ANY ($1::uuid[]) AND clinic_id = $2
)
SELECT (SELECT position FROM visits WHERE event_id = $3) < (SELECT position FROM visits WHERE event_id = $4)
"""


async def kill_at_random(scene: Scene) -> None:
    """Any process, any moment, kill -9; once two at a time."""
    load = asyncio.create_task(scene.load.run(POSTS * 2))
    async with asking(scene):
        for count in (1, 2):
            await asyncio.sleep(scene.random.uniform(0.1, 0.8))
            names = scene.random.sample(PROCESSES, count)
            for name in names:
                await asyncio.to_thread(scene.platform.processes[name].kill)
            await asyncio.gather(*(scene.restart(name) for name in names))
        await load


async def restart_in_turn(scene: Scene) -> None:
    """SIGTERM and a new process, one after another, as an update does.

    A client meets a closed port at most: what a stopping process had taken it answers.
    """
    errors = scene.load.ledger.server_errors
    before = Counter(errors)
    load = asyncio.create_task(scene.load.run(POSTS * 3))
    async with asking(scene):
        for name in (*PROCESSES, "booking-api"):
            await scene.restart(name)
        await load
    assert errors == before, f"answers while processes were replaced: {dict(errors - before)}"


async def freeze(scene: Scene) -> None:
    """Workers stand still longer than session and lease, others take over, then they wake up."""
    names = ["engagement-worker", "scoring-worker"]
    spares = [f"{name}-b" for name in names]
    # With a session as short as the other trials have it, the embedded broker keeps the group of a member
    # that stood still for several of them waiting for ever.
    await asyncio.gather(
        *(scene.restart(name, session_ms=PRODUCT_SESSION_MS) for name in (*names, *spares))
    )
    processes = scene.platform.processes
    pids = [processes[name].pid for name in names]
    load = asyncio.create_task(scene.load.run(POSTS))
    with scene.platform.suspended(pids[0]), scene.platform.suspended(pids[1]):
        await asyncio.sleep(FROZEN_SECONDS)
    await load
    # Who woke up is back in the group before others leave it: a member that leaves while the embedded
    # broker's group forms anew keeps it waiting for ever (docs/adr/0014).
    await asyncio.sleep(REJOIN_SECONDS)
    await asyncio.gather(*(asyncio.to_thread(processes[name].stop) for name in spares))


async def repeat(scene: Scene) -> None:
    """Everything comes again, over HTTP and in the topic, also after a crash; one with another body."""
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
    for name in ("booking-api", "scoring-worker"):
        await asyncio.to_thread(scene.platform.processes[name].kill)
        await scene.restart(name)
    async with httpx.AsyncClient(timeout=10, base_url=scene.platform.url("booking")) as client:
        again = await client.post("/v1/events", json=events, headers=headers)
    assert again.json()["duplicate"] == len(events)
    await _repeat_topic(scene)


async def _repeat_topic(scene: Scene) -> None:
    servers = scene.platform.broker.bootstrap_servers
    # Without a group it is given every partition there is.
    reader = AIOKafkaConsumer(TOPIC, bootstrap_servers=servers, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=servers)
    await asyncio.gather(reader.start(), producer.start())
    try:
        ends = await reader.end_offsets(reader.assignment())
        clinics = {str(clinic.id).encode() for clinic in scene.trial.clinics}
        # What is sent here comes after the ends, and is not sent a third time.
        while batch := await reader.getmany(timeout_ms=REPEAT_QUIET_MS):
            for at, records in batch.items():
                for record in records:
                    is_mine = dict(record.headers).get("ce_clinicid") in clinics
                    if is_mine and record.offset < ends[at]:
                        await producer.send(
                            TOPIC, record.value, key=record.key, headers=list(record.headers)
                        )
    finally:
        await producer.stop()
        await reader.stop()


async def late_commits(scene: Scene) -> None:
    """Transactions commit in another order than their rows were numbered."""
    load = scene.load
    overtaken = 0
    for clinic in scene.trial.clinics * LATE_TURNS:
        first, second = load.visit(clinic, COMMITS_LATE), load.visit(clinic)
        late = asyncio.create_task(load.post_one(clinic, first))
        await asyncio.sleep(LATE_SECONDS / 4)
        await load.post_one(clinic, second)
        is_earlier = not late.done()
        await late
        numbered = clinic.id, first["id"], second["id"]
        overtaken += is_earlier and await scene.value("booking", _IS_NUMBERED_BEFORE, *numbered)
    assert overtaken, "no transaction committed before one whose rows have lower numbers"


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
            "modality": "in_person",
            **plan(now + timedelta(days=3), now - timedelta(hours=1)),
        },
    )
    for event in (cancelled, booked):
        await scene.load.post_one(clinic, event)
    assert not scene.load.ledger.refused, scene.load.ledger.refused
    answer = await scene.insist("booking", "GET", "/v1/appointments/A-1", clinic)
    assert answer.json()["status"] == "cancelled", answer.text
    await scene.load.run(POSTS // 3)


async def clocks(scene: Scene) -> None:
    """Sources whose clocks are five minutes off, and times that clocks stumble over."""
    clinic = scene.trial.clinics[0]
    now = datetime.now(UTC)
    ahead = now + timedelta(minutes=5)
    starts_at = now + timedelta(days=3)
    # Told five minutes before it happened, by a source that is five minutes ahead; a later word wins.
    await scene.load.post_one(
        clinic, _appointment(clinic.id, "booked", ahead, plan(starts_at, ahead), "A-2")
    )
    cancelled = {"by": "patient", "reason_code": "illness", "late": False}
    later = ahead + timedelta(seconds=1)
    await scene.load.post_one(clinic, _appointment(clinic.id, "cancelled", later, cancelled, "A-2"))
    answer = await scene.insist("booking", "GET", "/v1/appointments/A-2", clinic)
    assert answer.json()["status"] == "cancelled", answer.text
    for number, text in enumerate(STUMBLES):
        name = f"A-time-{number}"
        told = _appointment(clinic.id, "booked", now, plan(datetime.fromisoformat(text), now), name)
        await scene.load.post_one(clinic, told)
        answer = await scene.insist("booking", "GET", f"/v1/appointments/{name}", clinic)
        assert datetime.fromisoformat(answer.json()["starts_at"]) == datetime.fromisoformat(text)
    assert not scene.load.ledger.refused, scene.load.ledger.refused
    scene.load.skew = timedelta(minutes=5)
    await scene.load.run(POSTS // 2)


STUMBLES = (
    "2028-02-29T09:00:00+03:00",  # a leap day
    "2028-10-29T02:30:00+02:00",  # the hour that comes twice in Berlin, first
    "2028-10-29T02:30:00+01:00",  # and second
    "2029-03-25T01:30:00+00:00",  # the hour that Berlin leaps over
    "2028-12-31T23:59:59.999999+14:00",  # the last moment of a year, where it ends first
)


def _appointment(
    clinic_id: UUID, what: str, at: datetime, data: Mapping[str, object], name: str = "A-1"
) -> dict[str, Any]:
    ids = {"appointment_id": name, "patient_id": "P-1"}
    return event_of(
        clinic_id, f"chaos-{what}-{name}", f"appointment.{what}", name, at, {**ids, **data}
    )


async def providers_fail(scene: Scene) -> None:
    """Providers are slow, busy, broken, and take messages without saying so; two addresses are none."""
    wrong = scene.platform.providers.misbehaviour
    wrong.too_many, wrong.server_errors, wrong.accept_then_hang = 3, 3, 3
    wrong.busy_mail, wrong.drop_after_data, wrong.lose_data = 3, 2, 2
    wrong.slow_seconds = 1.0
    # Numbers of patients grow by clinic; these come in the middle of a batch.
    clinic = scene.trial.clinics[0]
    first = scene.load.next_number(clinic)
    wrong.refused = {clinic.recipient(first + 1), clinic.recipient(first + 2)}
    scene.trial.refused |= wrong.refused
    await scene.load.run(POSTS)
    wrong.slow_seconds = 0


async def receipts_repeat(scene: Scene) -> None:
    """The gateway says three times at once that a message was delivered; it counts once."""
    await scene.load.run(POSTS // 2)

    def texts() -> list[tuple[str, str]]:
        return [
            (key, str(clinic.id))
            for key, message in scene.platform.providers.sms.items()
            for clinic in scene.trial.clinics
            if clinic.owns(message.to)
        ][:RECEIPTS]

    async def are_sent() -> bool:
        return len(texts()) == RECEIPTS

    await scene.until(are_sent, "a text message")
    await asyncio.gather(
        *(_receipt(scene, key, clinic) for key, clinic in texts() for _ in range(3))
    )
    counted = await scene.published("engagement", "message.delivered")
    assert counted == RECEIPTS, f"{counted} deliveries of {RECEIPTS}"


async def _receipt(scene: Scene, key: str, clinic: str) -> None:
    body = json.dumps({"id": key, "clinic_id": clinic, "status": "delivered"}).encode()
    signature = hmac.new(CALLBACK_SECRET.encode(), body, hashlib.sha256).hexdigest()
    await scene.insist(
        "engagement",
        "POST",
        "/v1/callbacks/sms",
        None,
        content=body,
        headers={"X-Signature": signature, "Content-Type": "application/json"},
    )


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


SCENARIOS: Mapping[str, Fault] = {
    "F1 before the sending": crashes.crash_all(
        "relay.before_send:2",
        "sender.after_claim:1",
        "consumer.after_offsets:2",
        "consumer.before_commit:2",
    ),
    "F1 amid the sending": crashes.crash_all(
        "relay.mid_send:2",
        "sender.before_send:1",
        "consumer.after_commit:2",
        "consumer.after_offsets:2",
    ),
    "F1 after the sending": crashes.crash_all(
        "relay.after_ack:2",
        "sender.after_provider_ok:3",
        "consumer.before_commit:2",
        "consumer.after_commit:2",
    ),
    "F1 after it was noted": crashes.crash_all(
        "relay.after_delete:2",
        "sender.after_mark:1",
        "consumer.before_commit:3",
        "consumer.before_commit:1",
    ),
    "F1 amid letters": crashes.crash_amid_letters,
    "F1 about the decision": crashes.crash_about_the_decision,
    "F1 amid requests": crashes.crash_amid_requests,
    "F1 amid links": crashes.crash_amid_links,
    "F1 amid due work": crashes.crash_amid_due_work,
    "F1 amid dead letters": crashes.crash_amid_dead_letters,
    "F1 amid a rebalance": crashes.crash_amid_rebalance,
    "F1 amid a refill": crashes.crash_amid_refill,
    "F1 anywhere": crashes.crash_anywhere,
    "F1 relay": crashes.crash_at("booking-worker", "relay.before_send", 2),
    "F1 consumer": crashes.crash_at("scoring-worker", "consumer.before_commit", 2),
    "F2 kill -9": kill_at_random,
    "F2 rolling restart": restart_in_turn,
    "F2 rebuild after kills": rebuild,
    "F3 frozen workers": freeze,
    "F4 broker pause": outages.pause_broker,
    "F4 broker killed": outages.kill_broker,
    "F5 split from PostgreSQL": outages.split_from_postgres,
    "F5 answers of PostgreSQL lost": outages.lose_answers_of_postgres,
    "F5 split from the broker": outages.split_from_broker,
    "F5 acknowledgements lost": outages.lose_answers_of_broker,
    "F5 half-open": outages.half_open,
    "F6 connections ended": outages.end_backends,
    "F6 backend killed": outages.kill_backend,
    "F6 PostgreSQL crash": outages.crash_postgres,
    "F6 PostgreSQL refuses": outages.postgres_refuses,
    "F6 deadlocks": outages.deadlocks,
    "F7 repeats": repeat,
    "F8 late commits": late_commits,
    "F8 disorder": disorder,
    "F8 clocks": clocks,
    "F9 poison": poison,
    "F9 handler kills": handler_kills,
    "F9 handler always kills": handler_always_kills,
    "F11 providers fail": providers_fail,
    "F11 receipts repeat": receipts_repeat,
    "F12 two of each": two_of_each,
    "F15 log lost": outages.lose_log,
}

FEW_VISITS = 30
VISITS = {
    "F1 amid letters": 60,
    "F1 amid due work": 45,
    "F2 kill -9": 60,
    "F2 rolling restart": 90,
    "F4 broker killed": 60,
    "F5 split from PostgreSQL": 60,
    "F5 answers of PostgreSQL lost": 60,
    "F5 split from the broker": 60,
    "F5 acknowledgements lost": 60,
    "F6 PostgreSQL refuses": 90,
}
"""Visits that a fault posts in each clinic; the others no more than a few."""


def visits_of(fault: str) -> int:
    """Gives how many visits a fault posts in each clinic at most, each of another patient."""
    return VISITS.get(fault, FEW_VISITS)


ONLY_ON_KAFKA = ("F4 broker killed",)
"""The embedded broker keeps nothing on disk: for it a kill is F15."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """How a deliberate defect comes to light.

    Args:
        process: Where it lives.
        fault: What must bring it to light; without the defect the same fault passes.
        finding: Pattern of what the suite must say then.
    """

    process: str
    fault: str
    finding: str


_LOST = r": events (applied|of all kinds): \d+ of"

MUTANTS: Mapping[str, Mutant] = {
    "cursor_relay": Mutant("booking-worker", "F8 late commits", _LOST),
    "delete_before_ack": Mutant("booking-worker", "F1 relay", _LOST),
    "no_inbox": Mutant("scoring-worker", "F7 repeats", "^scoring: .* applied more than once"),
    "no_tenant_in_key": Mutant("scoring-worker", "F8 disorder", f"^scoring{_LOST}"),
    "offsets_first": Mutant("scoring-worker", "F1 consumer", f"^scoring{_LOST}"),
    "dead_letters_swallowed": Mutant(
        "scoring-worker", "F9 poison", "^scoring: dead letters kept: 0 of"
    ),
    "send_before_claim": Mutant("engagement-worker", "F1 amid letters", "has the same message"),
    "gate_skipped": Mutant("engagement-worker", "F8 disorder", "has a message and refused"),
}

QUICK = (
    "F8 disorder",
    "F9 poison",
    "F7 repeats",
    "F11 providers fail",
    "F4 broker pause",
    "F5 acknowledgements lost",
    "F6 connections ended",
    "F1 after the sending",
    "F2 kill -9",
    "F15 log lost",
)
"""The quick set: several faults one after another on one platform, judged once at the end."""
