"""Commands of feedback: `python -m feedback api | worker | migrate | dlq | outbox | rebuild`."""

import argparse
import sys
from urllib.parse import urlsplit

from feedback.app import build_worker, create_app
from feedback.consumers import HANDLERS, PROJECTIONS
from feedback.settings import Settings
from revisit_chassis.logs import configure_logging
from revisit_chassis.migrate import upgrade
from revisit_chassis.process import run_until_signal, serve_api
from revisit_chassis.tenancy import Roles
from revisit_events.commands import add_commands, run_command


def main() -> int:
    """Runs one command; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m feedback", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("api", help="serve HTTP")
    commands.add_parser("worker", help="consume, publish")
    commands.add_parser("migrate", help="bring the database to the newest revision")
    add_commands(commands)
    arguments = parser.parse_args()
    settings = Settings()
    configure_logging("feedback", settings.log_format)
    if arguments.command == "api":
        serve_api(create_app(settings), settings.host, settings.port or 8003)
    elif arguments.command == "worker":
        run_until_signal(build_worker(settings).run)
    elif arguments.command == "migrate":
        upgrade("feedback", settings.address("owner"), _roles(settings))
    else:
        return run_command(arguments, settings, HANDLERS, PROJECTIONS, print)
    return 0


def _roles(settings: Settings) -> Roles:
    users = [urlsplit(settings.address(user)).username or "" for user in ("app", "worker")]
    return Roles(app=users[0], worker=users[1])


if __name__ == "__main__":
    sys.exit(main())
