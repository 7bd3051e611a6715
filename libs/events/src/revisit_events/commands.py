"""Commands on delivery that every service has: dead letters, outbox, rebuild.

`python -m <service> dlq list|replay|discard`, `outbox status|replay|unsendable|retry|discard`,
`rebuild`. They follow the running clock, as the service does.
"""

import argparse
import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from revisit_chassis.clock import Clock
from revisit_chassis.db import Database, is_infrastructure_fault
from revisit_chassis.runtime import running_clock
from revisit_chassis.settings import ServiceSettings
from revisit_events import dlq
from revisit_events.effects import Effects
from revisit_events.handlers import Handlers
from revisit_events.rebuild import (
    ConsumerRuns,
    Projections,
    clinics_of_log,
    consumer_stands_still,
    rebuild,
)
from revisit_events.relay import unsent
from revisit_events.replay import UnknownTopic, replay_outbox
from revisit_events.topics import create_topics
from revisit_events.unsendable import give_up, take_up_again, unsendable

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
    outbox.add_parser("unsendable", help="what the broker would not take, a JSON line each")
    for action, text in (
        ("retry", "send again what was put aside"),
        ("discard", "give up what was put aside: nobody will get it"),
    ):
        parser = outbox.add_parser(action, help=text)
        parser.add_argument("position", nargs="+", type=int, help="as `unsendable` shows it")
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
    projections: Projections,
    write: Print,
) -> int:
    """Runs one of the commands; gives the exit code.

    Args:
        arguments: Parsed.
        settings: Of the service.
        handlers: Of the service.
        projections: What can be rebuilt.
        write: Prints a line.
    """

    async def run() -> int:
        database = Database(settings.address("app"), pool_size=2)
        worker_database = Database(settings.address("worker"), pool_size=2)
        try:
            async with running_clock(settings, None) as clock:
                context = _Context(
                    arguments,
                    settings,
                    handlers,
                    projections,
                    write,
                    database,
                    worker_database,
                    clock,
                )
                return await _ACTIONS[arguments.command](context)
        finally:
            await database.close()
            await worker_database.close()

    return asyncio.run(run())


@dataclass(frozen=True, slots=True)
class _Context:
    """What a command works with."""

    arguments: argparse.Namespace
    settings: ServiceSettings
    handlers: Handlers
    projections: Projections
    write: Print
    database: Database
    worker_database: Database
    clock: Clock


async def _rebuild(context: _Context) -> int:
    service = context.settings.service
    if not context.projections:
        context.write(f"{service} has no projections: its tables are the source")
        return 2
    try:
        async with consumer_stands_still(context.database, service):
            clinics = context.arguments.clinic or await clinics_of_log(context.worker_database)
            for clinic_id in clinics:
                count = await rebuild(
                    context.database,
                    context.handlers,
                    context.projections,
                    clinic_id,
                    context.clock.now(),
                )
                context.write(f"{clinic_id}: {count} events applied again")
    except ConsumerRuns as error:
        context.write(str(error))
        return 1
    return 0


async def _outbox(context: _Context) -> int:
    arguments, write, database = context.arguments, context.write, context.worker_database
    if arguments.action == "status":
        write(f"{await unsent(database)} waiting for the relay")
        write(f"{len(await unsendable(database))} put aside")
    elif arguments.action == "unsendable":
        for row in await unsendable(database):
            write(json.dumps(row._asdict(), default=str))
    elif arguments.action in {"retry", "discard"}:
        act = take_up_again if arguments.action == "retry" else give_up
        count = await act(database, arguments.position)
        write(f"{count} of {len(arguments.position)}")
        return 0 if count == len(arguments.position) else 1
    else:
        until = arguments.until or datetime.now(UTC)
        try:
            count = await replay_outbox(database, arguments.topic, arguments.since, until)
        except UnknownTopic:
            write(f"no event has the topic {arguments.topic}; docs/events.md lists them")
            return 2
        write(f"{count} events of {arguments.topic} are sent again")
    return 0


async def _dead_letters(context: _Context) -> int:
    arguments, write = context.arguments, context.write
    if arguments.action == "list":
        for letter in await dlq.open_letters(context.worker_database, arguments.limit):
            write(json.dumps(_summary(letter)))
        return 0
    wanted = set(arguments.id)
    if not wanted and not arguments.all:
        write("name dead letters, or give --all")
        return 2
    effects = Effects(context.settings.service, context.database, context.handlers, context.clock)
    failed = 0
    async for letter in dlq.each_open(context.worker_database, sorted(wanted) or None):
        wanted.discard(letter.dead_letter_id)
        if arguments.action == "discard":
            async with context.worker_database.transaction((letter.clinic_id,)) as connection:
                await dlq.close(connection, letter, "discarded")
            write(f"{letter.dead_letter_id} discarded")
            continue
        try:
            await effects.replay(letter)
            write(f"{letter.dead_letter_id} replayed")
        except Exception as error:  # noqa: BLE001  (one bad letter must not keep the others)
            failed += 1
            if not is_infrastructure_fault(error):
                async with context.worker_database.transaction((letter.clinic_id,)) as connection:
                    await dlq.failed_again(connection, letter, error)
            write(f"{letter.dead_letter_id} failed again: {dlq.describe(error)}")
    for unknown in sorted(map(str, wanted)):
        failed += 1
        write(f"{unknown} is no open dead letter")
    return 1 if failed else 0


_ACTIONS: Mapping[str, Callable[[_Context], Awaitable[int]]] = {
    "dlq": _dead_letters,
    "outbox": _outbox,
    "rebuild": _rebuild,
}


def create_all_topics(
    bootstrap_servers: str, partitions: int, replication: int, write: Print
) -> None:
    """Creates the topics of the catalogue and prints their names.

    Args:
        bootstrap_servers: Of the broker.
        partitions: Of each.
        replication: Copies of each; -1 is the broker's default.
        write: Prints a line.
    """
    for name in asyncio.run(create_topics(bootstrap_servers, partitions, replication=replication)):
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
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time with its offset, such as 2026-01-12T09:00:00+03:00"
        )
    return moment
