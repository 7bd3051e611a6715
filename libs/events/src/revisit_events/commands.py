"""Commands on delivery that every service has: dead letters, outbox, topics, rebuild.

`python -m <service> dlq list|replay|discard`, `outbox status|replay`, `rebuild`.
"""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from uuid import UUID

from revisit_chassis.clock import SystemClock
from revisit_chassis.db import Database
from revisit_chassis.settings import ServiceSettings
from revisit_events import dlq
from revisit_events.broker import BrokerWatch, KafkaSettings
from revisit_events.consumer import Consumer, Handlers
from revisit_events.rebuild import clinics_of_log, rebuild
from revisit_events.relay import unsent
from revisit_events.replay import replay_outbox
from revisit_events.topics import create_topics

Print = Callable[[str], None]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `dlq`, `outbox` and `rebuild` to a service's commands.

    Args:
        commands: Of the service's parser.
    """
    letters = commands.add_parser("dlq", help="dead letters").add_subparsers(
        dest="action", required=True
    )
    listing = letters.add_parser("list", help="the oldest open ones, a JSON line each")
    listing.add_argument("--limit", type=int, default=100)
    for action, text in (
        ("replay", "run the handler again on them"),
        ("discard", "close them without effect"),
    ):
        parser = letters.add_parser(action, help=text)
        parser.add_argument("id", nargs="*", type=UUID, help="of the dead letters")
        parser.add_argument("--all", action="store_true", help="every open one")
    outbox = commands.add_parser("outbox", help="the outbox").add_subparsers(
        dest="action", required=True
    )
    outbox.add_parser("status", help="how much waits for the relay")
    again = outbox.add_parser("replay", help="send a topic's retained events again")
    again.add_argument("--topic", required=True)
    again.add_argument("--since", type=_moment, required=True, help="RFC 3339")
    again.add_argument("--until", type=_moment, default=None, help="RFC 3339; now when left out")
    rebuilding = commands.add_parser("rebuild", help="make projections again from the event log")
    rebuilding.add_argument("--clinic", type=UUID, action="append", help="all when left out")


def run_command(
    arguments: argparse.Namespace,
    settings: ServiceSettings,
    handlers: Handlers,
    projections: Sequence[str],
    write: Print,
) -> int:
    """Runs one of the commands; gives the exit code.

    Args:
        arguments: Parsed.
        settings: Of the service.
        handlers: Of the service.
        projections: Tables that can be rebuilt.
        write: Prints a line.
    """
    database = Database(settings.address("app"), pool_size=2)
    worker_database = Database(settings.address("worker"), pool_size=2)

    async def run() -> int:
        try:
            return await _action(
                arguments, settings, handlers, projections, write, database, worker_database
            )
        finally:
            await database.close()
            await worker_database.close()

    return asyncio.run(run())


async def _action(
    arguments: argparse.Namespace,
    settings: ServiceSettings,
    handlers: Handlers,
    projections: Sequence[str],
    write: Print,
    database: Database,
    worker_database: Database,
) -> int:
    if arguments.command == "rebuild":
        for clinic_id in arguments.clinic or await clinics_of_log(worker_database):
            count = await rebuild(database, handlers, projections, clinic_id, datetime.now(UTC))
            write(f"{clinic_id}: {count} events applied again")
        return 0
    if arguments.command == "outbox":
        if arguments.action == "status":
            write(f"{await unsent(worker_database)} waiting for the relay")
            return 0
        until = arguments.until or datetime.now(UTC)
        count = await replay_outbox(worker_database, arguments.topic, arguments.since, until)
        write(f"{count} events of {arguments.topic} are sent again")
        return 0
    return await _dead_letters(arguments, settings, handlers, write, database, worker_database)


async def _dead_letters(
    arguments: argparse.Namespace,
    settings: ServiceSettings,
    handlers: Handlers,
    write: Print,
    database: Database,
    worker_database: Database,
) -> int:
    if arguments.action == "list":
        for letter in await dlq.open_letters(worker_database, arguments.limit):
            write(json.dumps(_summary(letter)))
        return 0
    wanted = set(arguments.id)
    if not wanted and not arguments.all:
        write("name dead letters, or give --all")
        return 2
    act = _replaying(settings, handlers, database)
    failed = 0
    for letter in await dlq.open_letters(worker_database, 1_000_000):
        if wanted and letter.dead_letter_id not in wanted:
            continue
        wanted.discard(letter.dead_letter_id)
        if arguments.action == "discard":
            async with worker_database.transaction((letter.clinic_id,)) as connection:
                await dlq.close(connection, letter, "discarded")
            write(f"{letter.dead_letter_id} discarded")
            continue
        try:
            await act(letter)
            write(f"{letter.dead_letter_id} replayed")
        except Exception as error:  # noqa: BLE001  (one bad letter must not keep the others)
            failed += 1
            write(f"{letter.dead_letter_id} failed again: {dlq.describe(error)}")
    for unknown in sorted(map(str, wanted)):
        failed += 1
        write(f"{unknown} is no open dead letter")
    return 1 if failed else 0


def _replaying(
    settings: ServiceSettings, handlers: Handlers, database: Database
) -> Callable[[dlq.DeadLetter], Awaitable[None]]:
    kafka = kafka_settings(settings)
    consumer = Consumer(
        settings.service, database, handlers, SystemClock(), kafka, BrokerWatch(kafka)
    )
    return consumer.replay


def kafka_settings(settings: ServiceSettings) -> KafkaSettings:
    """Gives how a service talks to the broker.

    Args:
        settings: Of the service.
    """
    return KafkaSettings(
        bootstrap_servers=settings.kafka_bootstrap_servers,
        enable_idempotence=settings.kafka_enable_idempotence,
        topic_partitions=settings.kafka_topic_partitions,
        fetch_max_wait_ms=settings.kafka_fetch_max_wait_ms,
    )


def create_all_topics(bootstrap_servers: str, partitions: int, write: Print) -> None:
    """Creates the topics of the catalogue and prints their names.

    Args:
        bootstrap_servers: Of the broker.
        partitions: Of each.
        write: Prints a line.
    """
    for name in asyncio.run(create_topics(bootstrap_servers, partitions)):
        write(f"created {name}")


def _summary(letter: dlq.DeadLetter) -> dict[str, object]:
    return {
        "id": str(letter.dead_letter_id),
        "clinic_id": str(letter.clinic_id),
        "topic": letter.raw.topic,
        "partition": letter.raw.partition,
        "offset": letter.raw.offset,
        "reason": letter.reason,
        "error": letter.error,
        "attempts": letter.attempts,
        "recorded_at": letter.recorded_at.isoformat(),
    }


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError("give the time with its offset, such as ...+03:00")
    return moment
