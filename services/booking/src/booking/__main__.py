"""Commands of booking: `python -m booking api | worker | migrate | dlq | outbox | rebuild | token | revoke | reencrypt`."""  # noqa: E501

import argparse
import asyncio
import sys
from datetime import datetime
from uuid import UUID

from booking.app import build_worker, create_app
from booking.consumers import HANDLERS
from booking.roles import scopes_of
from booking.rotation import ENCRYPTED
from booking.settings import Settings
from booking.usecases.tokens import revoke
from revisit_chassis.db import Database
from revisit_chassis.settings import ServiceSettings
from revisit_chassis.tokens import Signer
from revisit_events.rebuild import Projections
from revisit_events.service_main import service_main

PROJECTIONS: Projections = {}
"""A rebuild makes nothing again: booking's tables are the source of truth. A link, though it came by
event, was used or not, which no event in the log tells."""

DAY_SECONDS = 24 * 3600


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands of booking's own: on tokens."""
    token = commands.add_parser("token", help="print a signed token")
    token.add_argument("--clinic", type=UUID, help="none makes a platform token")
    token.add_argument("--role", required=True)
    token.add_argument("--sub", default="operator", help="whose it is")
    token.add_argument("--days", type=int, default=30, help="until it expires")
    gone = commands.add_parser("revoke", help="refuse a token from now on, in every service")
    gone.add_argument("--clinic", type=UUID, help="of the token; none for a platform token")
    gone.add_argument("--jti", required=True)
    gone.add_argument("--expires-at", type=_moment, required=True, help="RFC 3339")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError("give the time with its offset, such as ...+03:00")
    return moment


async def _revoke(arguments: argparse.Namespace, settings: ServiceSettings) -> None:
    database = Database(settings.address("app"), pool_size=1)
    try:
        await revoke(database, arguments.clinic, arguments.jti, arguments.expires_at)
    finally:
        await database.close()


def run_command(arguments: argparse.Namespace, settings: ServiceSettings) -> int:
    """Runs a command of booking's own; gives the exit code."""
    if arguments.command == "revoke":
        asyncio.run(_revoke(arguments, settings))
        return 0
    try:
        scopes = scopes_of(arguments.role, is_platform=arguments.clinic is None)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        Signer(settings.signing_key).issue(
            sub=arguments.sub,
            clinic_id=arguments.clinic,
            scopes=scopes,
            role=arguments.role,
            lifetime_seconds=arguments.days * DAY_SECONDS,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(
        service_main(
            "booking",
            Settings,
            create_app,
            build_worker,
            HANDLERS,
            PROJECTIONS,
            encrypted=ENCRYPTED,
            extend=add_commands,
            extra=run_command,
        )
    )
