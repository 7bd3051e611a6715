"""F9: messages that no handler can take, among good ones."""

import asyncio
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

from revisit_events.attempts import CAREFUL_FROM, DEADLY_FROM
from revisit_events.outbox import message_of, record_headers
from revisit_events.testing import visit_completed
from tests.chaos.checks import GROUPS, TOPIC, Poison
from tests.chaos.ledger import SOURCE
from tests.chaos.process import ALWAYS_KILLS, HANDLER_FAILS, HANDLER_KILLS
from tests.chaos.scene import POSTS, Scene


async def poison(scene: Scene) -> None:
    """Bad messages stand in the topic among good ones; one is a good event that handlers fail on."""
    await asyncio.gather(scene.load.run(POSTS // 2), post_poison(scene))


async def post_poison(scene: Scene) -> None:
    """Puts bad messages into the topic."""
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
    producer = AIOKafkaProducer(bootstrap_servers=scene.platform.broker.bootstrap_servers)
    await producer.start()
    for number, (value, attributes) in enumerate(bad):
        event_id = f"{mark}-{number}"
        headers = [(f"ce_{name}", text.encode()) for name, text in attributes.items()]
        headers += [("ce_id", event_id.encode()), ("foreign", b"\xff\x00")]
        await producer.send_and_wait(TOPIC, value, key=b"poison", headers=headers)
        scene.trial.poison.append(Poison(event_id, GROUPS))
    await producer.stop()
    await _post_marked(scene, f"{mark}-{HANDLER_FAILS}")


async def _post_marked(scene: Scene, event_id: str) -> None:
    """Puts a good event into the topic that no handler can take."""
    clinic = scene.trial.clinics[0]
    message = message_of(visit_completed(clinic_id=clinic.id, id=event_id))
    producer = AIOKafkaProducer(bootstrap_servers=scene.platform.broker.bootstrap_servers)
    await producer.start()
    await producer.send_and_wait(
        TOPIC, message.data, key=message.key.encode(), headers=record_headers(message)
    )
    await producer.stop()
    scene.trial.poison.append(Poison(event_id, GROUPS))


async def handler_kills(scene: Scene) -> None:
    """A handler takes its whole process down; the next process goes on, and its neighbours never stop."""
    clinic = scene.trial.clinics[0]
    visit = scene.load.visit(clinic)
    # Numbers begin again with each trial; whoever died of an event does not die of it twice.
    visit["id"] = f"{HANDLER_KILLS}-{clinic.id}"
    load = asyncio.create_task(scene.load.run(POSTS // 2))
    await scene.load.post_one(clinic, visit)
    for name in ("engagement-worker", "feedback-worker", "scoring-worker"):
        await scene.death(name, HANDLER_KILLS)
        await scene.restart(name)
    await load


async def handler_always_kills(scene: Scene) -> None:
    """Whoever handles a message dies of it, again and again, until it is buried unhandled."""
    name = "scoring-worker"
    load = asyncio.create_task(scene.load.run(POSTS // 2))
    await _post_marked(scene, f"{ALWAYS_KILLS}-{scene.trial.clinics[0].id}")

    async def is_over() -> bool:
        return scene.platform.processes[name].poll() is not None or bool(
            await scene.value("scoring", _DEADLY)
        )

    deaths = 0
    while True:
        await scene.until(is_over, "an end of the deadly message")
        if scene.platform.processes[name].poll() is None:
            break
        await scene.death(name, ALWAYS_KILLS)
        deaths += 1
        assert deaths <= MOST_DEATHS, f"{name} died {deaths} times of one message"
        await scene.restart(name, may_die=True)
    assert deaths, f"{name} buried a message that it never handled"
    await load


MOST_DEATHS = CAREFUL_FROM + DEADLY_FROM
"""Who has read on in a partition for long notes no try there, so the first death comes on top."""
_DEADLY = """
SELECT count(*) FROM dead_letter WHERE reason = 'deadly' AND clinic_id = ANY ($1::uuid[])
"""
