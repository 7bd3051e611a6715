"""Commands of booking: `python -m booking api | worker | migrate | dlq | outbox | rebuild | token | revoke`."""  # noqa: E501

import argparse
import asyncio
import sys
from datetime import datetime
from uuid import UUID

from booking.app import build_worker, create_app
from booking.consumers import HANDLERS
from booking.roles import scopes_of
from booking.settings import Settings
from booking.usecases.tokens import revoke
from revisit_chassis.db import Database
from revisit_chassis.settings import ServiceSettings
from revisit_chassis.tokens import Signer
from revisit_events.service_main import service_main

PROJECTIONS = ("link",)
"""What a rebuild makes again; the rest of booking's tables are the source of truth."""

DAY_SECONDS = 24 * 3600


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands on tokens."""
    token = commands.add_parser("token", help="print a signed token")
    token.add_argument("--clinic", type=UUID, help="none makes a platform token")
    token.add_argument("--role", required=True)
    token.add_argument("--sub", default="operator", help="whose it is")
    token.add_argument("--days", type=int, default=30, help="until it expires")
    gone = commands.add_parser("revoke", help="refuse a token from now on, in every service")
    gone.add_argument("--clinic", type=UUID, help="of the token; none for a platform token")
    gone.add_argument("--jti", required=True)
    gone.add_argument("--expires-at", type=datetime.fromisoformat, required=True)


def run_command(arguments: argparse.Namespace, settings: ServiceSettings) -> int:
    """Runs a command on tokens; gives the exit code."""
    if arguments.command == "revoke":
        database = Database(settings.address("app"), pool_size=1)
        asyncio.run(revoke(database, arguments.clinic, arguments.jti, arguments.expires_at))
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
            extend=add_commands,
            extra=run_command,
        )
    )
