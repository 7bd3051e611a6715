"""F9: messages that no handler can take, among good ones."""

import asyncio
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

from revisit_events.outbox import message_of, record_headers
from revisit_events.testing import visit_completed
from tests.chaos.checks import GROUPS, TOPIC, Poison
from tests.chaos.ledger import SOURCE
from tests.chaos.process import HANDLER_FAILS, HANDLER_KILLS
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
    event_id = f"{mark}-{HANDLER_FAILS}"
    message = message_of(visit_completed(clinic_id=clinic.id, id=event_id))
    await producer.send_and_wait(
        TOPIC, message.data, key=message.key.encode(), headers=record_headers(message)
    )
    scene.trial.poison.append(Poison(event_id, GROUPS))
    await producer.stop()


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
