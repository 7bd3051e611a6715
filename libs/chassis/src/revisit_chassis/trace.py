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
    _current.set(text if text is not None and is_traceparent(text) else None)


def is_traceparent(text: str) -> bool:
    """Tells whether a text is a `traceparent`.

    >>> is_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    True
    """
    return _PATTERN.fullmatch(text) is not None
