"""The trace that a request belongs to (W3C trace context), for the events that come of it."""

import re
from contextvars import ContextVar

_PATTERN = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


def current_traceparent() -> str | None:
    """Gives the `traceparent` of the request in hand; none without one, and outside of requests."""
    return _current.get()


def take_traceparent(header: bytes | None) -> None:
    """Notes the trace of the request in whose task this is called; what is none is no trace.

    Args:
        header: Its `traceparent`.
    """
    text = None if header is None else header.decode("latin-1")
    _current.set(text if text is not None and _PATTERN.fullmatch(text) else None)
