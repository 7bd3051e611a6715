"""The commands every service has: `api`, `worker`, `migrate`, `dlq`, `outbox`, `rebuild`.

One that encrypts columns has `reencrypt` besides.

Settings are read here, once, and passed down.
"""

import argparse
import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from revisit_chassis.crypto import Keyring
from revisit_chassis.db import Database
from revisit_chassis.logs import configure_logging
from revisit_chassis.migrate import upgrade
from revisit_chassis.process import run_until_signal, serve_api
from revisit_chassis.reencrypt import EncryptedColumn, Reencrypted, reencrypt
from revisit_chassis.runtime import running_clock
from revisit_chassis.settings import ServiceSettings
from revisit_chassis.tenancy import Roles
from revisit_events.commands import add_commands, run_command
from revisit_events.handlers import Handlers
from revisit_events.rebuild import Projections
from revisit_events.worker import Worker

S = TypeVar("S", bound=ServiceSettings)
Extend = Callable[["argparse._SubParsersAction[argparse.ArgumentParser]"], None]  # noqa: SLF001
Extra = Callable[[argparse.Namespace, ServiceSettings], int]


def service_main(
    service: str,
    settings_class: type[S],
    create_app: Callable[[S], FastAPI],
    build_worker: Callable[..., Worker],
    handlers: Handlers,
    projections: Projections,
    *,
    encrypted: Sequence[EncryptedColumn] = (),
    extend: Extend | None = None,
    extra: Extra | None = None,
) -> int:
    """Runs a service's command line; gives the exit code.

    Args:
        service: Name of the package.
        settings_class: Read from the environment.
        create_app: Makes the API.
        build_worker: Makes the worker, given settings and `clock`.
        handlers: Of the consumer.
        projections: What `rebuild` makes again.
        encrypted: Its encrypted columns, all of them: what `reencrypt` leaves out is lost with the old key.
        extend: Adds commands of the service's own.
        extra: Runs those.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {service}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("api", help="serve HTTP")
    commands.add_parser("worker", help="consume, relay, do what is due")
    commands.add_parser("migrate", help="bring the database to the newest schema")
    add_commands(commands)
    if encrypted:
        commands.add_parser("reencrypt", help="bring everything encrypted under the active key")
    if extend is not None:
        extend(commands)
    arguments = parser.parse_args()
    try:
        settings = settings_class()
    except ValidationError as error:
        parser.error("; ".join(map(_named, error.errors())))
    configure_logging(service, settings.log_format)
    if arguments.command == "api":
        serve_api(create_app(settings), settings.host, settings.port)
        return 0
    if arguments.command == "worker":
        run_until_signal(lambda stop: _work(settings, build_worker, stop))
        return 0
    if arguments.command == "migrate":
        upgrade(service, settings.address("owner"), roles_of(settings))
        return 0
    if arguments.command == "reencrypt":
        return _tell(asyncio.run(_reencrypt(settings, encrypted)), print)
    if arguments.command in {"dlq", "outbox", "rebuild"}:
        return run_command(arguments, settings, handlers, projections, print)
    return extra(arguments, settings) if extra is not None else 2


async def _reencrypt(
    settings: ServiceSettings, encrypted: Sequence[EncryptedColumn]
) -> dict[str, Reencrypted]:
    database = Database(settings.address("worker"), pool_size=2)
    try:
        return await reencrypt(database, Keyring.load(settings.keyring), encrypted)
    finally:
        await database.close()


def _tell(found: dict[str, Reencrypted], say: Callable[[str], None]) -> int:
    """Says what became of each column; gives the exit code, 1 while a text does not open."""
    for column, what in found.items():
        left = f", {what.unreadable} do not open and stay" if what.unreadable else ""
        say(f"{column}: {what.taken} encrypted anew{left}")
    return int(any(what.unreadable for what in found.values()))


def _named(fault: ErrorDetails) -> str:
    """Gives a fault of the settings with the name of its variable, and nothing of its value."""
    name = ".".join(map(str, fault["loc"])).upper()
    return f"{name}: {fault['msg']}" if name else str(fault["msg"])


def roles_of(settings: ServiceSettings) -> Roles:
    """Gives the names of a service's database users, as its addresses have them.

    Args:
        settings: Of the service.
    """
    app, worker = (urlsplit(settings.address(user)).username for user in ("app", "worker"))
    if not app or not worker:
        raise ValueError("the addresses of the database name no users")
    return Roles(app=app, worker=worker)


async def _work(settings: S, build_worker: Callable[..., Worker], stop: asyncio.Event) -> None:
    async with running_clock(settings, None) as clock:
        await build_worker(settings, clock=clock).run(stop)
