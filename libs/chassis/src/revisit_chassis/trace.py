"""The trace that a request belongs to (W3C trace context), for the events that come of it."""

import re
from contextvars import ContextVar

from starlette.types import Scope

_PATTERN = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


def current_traceparent() -> str | None:
    """Gives the `traceparent` of the request in hand; none without one, and outside of requests."""
    return _current.get()


def take_traceparent(scope: Scope) -> None:
    """Notes the `traceparent` of a request; what is none is no trace.

    Args:
        scope: Of the request, in whose task this is called.
    """
    found = None
    for name, value in scope["headers"]:
        if name == b"traceparent":
            text = value.decode("latin-1")
            found = text if _PATTERN.fullmatch(text) else None
    _current.set(found)
