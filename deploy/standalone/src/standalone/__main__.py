"""Commands of the embedded default: `python -m standalone serve | token | revoke | demo | catchers`."""

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from standalone.folder import FolderInUse, sole_user
from standalone.signals import Stopped, signals_stop_the_start


def main() -> int:
    """Runs a command; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m standalone", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_serve(commands)
    _add_token(commands)
    _add_revoke(commands)
    commands.add_parser("demo", add_help=False, help="run the demo")
    catchers = commands.add_parser(
        "catchers", help="an SMTP server and an SMS gateway that keep all"
    )
    catchers.add_argument("--host", default="127.0.0.1")
    catchers.add_argument("--smtp-port", type=int, required=True)
    catchers.add_argument("--http-port", type=int, required=True)
    catchers.add_argument("--folder", type=Path, required=True)
    arguments, rest = parser.parse_known_args()
    # What a command does not need is not imported: a token is wanted at once.
    if arguments.command == "demo":
        from standalone.demo import main as demo  # noqa: PLC0415

        return demo(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.command == "serve":
        return _serve(arguments)
    if arguments.command == "token":
        return _token(arguments)
    if arguments.command == "revoke":
        return _revoke(arguments)
    from standalone.catchers import run  # noqa: PLC0415

    run(arguments.host, arguments.smtp_port, arguments.http_port, arguments.folder)
    return 0


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = commands.add_parser("serve", help="serve everything in the foreground")
    serve.add_argument("--port", type=int, default=8080, help="0 picks a free one")
    serve.add_argument(
        "--or-free-port", action="store_true", help="a free port when that one is taken"
    )
    serve.add_argument("--data-dir", type=Path, required=True)
    serve.add_argument("--ready-file", type=Path, help="appears when everything answers")
    serve.add_argument("--clock", choices=["system", "simulated"], default="system")
    serve.add_argument("--start", type=_moment, help="first moment of a simulated clock, RFC 3339")
    serve.add_argument(
        "--kafka", metavar="HOST:PORT", help="a Kafka to use in place of the embedded broker"
    )


def _add_token(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    token = commands.add_parser("token", help="print a token")
    token.add_argument("--data-dir", type=Path, required=True)
    token.add_argument("--clinic", type=UUID, help="none makes a platform token")
    token.add_argument("--role", required=True)


def _add_revoke(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    revoke = commands.add_parser("revoke", help="refuse a token from now on, in every service")
    revoke.add_argument("--data-dir", type=Path, required=True)
    which = revoke.add_mutually_exclusive_group(required=True)
    which.add_argument("--token", help="the whole token")
    which.add_argument("--jti", help="its id, where the token itself is gone")
    revoke.add_argument(
        "--clinic", type=UUID, help="with --jti: of the token; none for a platform token"
    )
    revoke.add_argument(
        "--expires-at",
        type=_moment,
        help="with --jti: when it expires; 30 days from now if not known",
    )


def _serve(arguments: argparse.Namespace) -> int:
    options = {
        "port": arguments.port,
        "or_free_port": arguments.or_free_port,
        "data_dir": arguments.data_dir.resolve(),
        "ready_file": arguments.ready_file,
        "is_simulated": arguments.clock == "simulated",
        "start": arguments.start,
        "kafka": arguments.kafka,
    }
    try:
        with signals_stop_the_start(), sole_user(options["data_dir"]):
            return _serve_alone(arguments.ready_file, options)
    except Stopped:
        return 0
    except FolderInUse as error:
        print(error, file=sys.stderr)
        return 2


def _serve_alone(ready_file: Path | None, options: dict[str, Any]) -> int:
    """Serves while no other process may; the ready file never tells of an earlier start or an ended one."""
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)
    # Only now: this takes a second, in which nobody must find the file of an earlier start.
    from standalone.serve import KafkaUnusable, PortInUse, ServeOptions, serve  # noqa: PLC0415

    try:
        return serve(ServeOptions(**options))
    except (PortInUse, KafkaUnusable) as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)


def _token(arguments: argparse.Namespace) -> int:
    from standalone.keys import Keys  # noqa: PLC0415

    keys = Keys(arguments.data_dir.resolve())
    if not keys.signing_key.exists():
        keys.ensure()
    try:
        print(keys.issue(arguments.role, arguments.clinic))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    from standalone.keys import Keys  # noqa: PLC0415
    from standalone.postgres import PostgresFailed  # noqa: PLC0415
    from standalone.revoking import revoke, revoked_by_id, revoked_by_text  # noqa: PLC0415

    data_dir = arguments.data_dir.resolve()
    try:
        if arguments.token is not None:
            gone = revoked_by_text(Keys(data_dir), arguments.token)
        else:
            gone = revoked_by_id(arguments.jti, arguments.clinic, arguments.expires_at)
        revoke(data_dir, gone)
    except (ValueError, OSError, PostgresFailed) as error:
        print(f"not revoked: {error}", file=sys.stderr)
        return 2
    return 0


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError("give the time with its offset, such as ...Z")
    return moment


if __name__ == "__main__":
    sys.exit(main())
