"""The key ring's commands.

`python -m revisit_chassis.keyring show | add | activate ID | retire ID --file FILE`
"""

import argparse
import sys
from pathlib import Path

from revisit_chassis.crypto import UnknownKey, activate_key, add_key, key_ids, retire_key


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; gives the exit code.

    Args:
        arguments: Of the command line; the process's own when left out.
    """
    parser = argparse.ArgumentParser(prog="python -m revisit_chassis.keyring", description=__doc__)
    parser.add_argument("action", choices=("show", "add", "activate", "retire"))
    parser.add_argument("key", nargs="?", help="id of the key, for activate and retire")
    parser.add_argument("--file", type=Path, required=True, help="the key ring (REVISIT_KEYRING)")
    given = parser.parse_args(arguments)
    if given.action in {"activate", "retire"} and given.key is None:
        parser.error(f"{given.action} needs the id of a key")
    try:
        if given.action == "add":
            print(add_key(given.file))  # noqa: T201
        elif given.action == "activate":
            activate_key(given.file, given.key)
        elif given.action == "retire":
            retire_key(given.file, given.key)
        else:
            active, known = key_ids(given.file)
            for key_id in known:
                print(f"{key_id} active" if key_id == active else key_id)  # noqa: T201
    except UnknownKey:
        print("there is no such key in the ring", file=sys.stderr)  # noqa: T201
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
