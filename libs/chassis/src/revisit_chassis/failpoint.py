"""Named places where a test lets the process die as if it had been killed.

`FAILPOINT=relay.after_ack:3` ends the process the third time it comes to `relay.after_ack`. Every place
has its trial; a test holds new ones to it.
"""

import os
from collections import Counter

KILLED = 137
"""Exit code of a process that got SIGKILL."""

_name, _, _count = os.environ.get("FAILPOINT", "").partition(":")
_hits: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Ends the process here if the environment asks for it; otherwise does nothing.

    Args:
        name: The place, such as `relay.after_ack`.
    """
    if name != _name:
        return
    _hits[name] += 1
    if _hits[name] >= int(_count or "1"):
        os._exit(KILLED)
