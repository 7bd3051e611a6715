"""Structured logs on standard output: fixed event names, keys, and nothing that names a person."""

import logging
import re
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

REDACTED = "[redacted]"
FORBIDDEN_KEYS = frozenset(
    (
        "name",
        "phone",
        "email",
        "to",
        "text",
        "body",
        "contact",
        "contacts",
        "token",
        "authorization",
    )
)
_MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
_PHONE = re.compile(r"\+[1-9]\d{6,14}\b")
_LINK_TOKEN = re.compile(r"/(s|a|u)/[\w-]{16,}")


def configure_logging(service: str, form: Literal["json", "console"] = "json") -> None:
    """Sets up the logs of a process.

    Args:
        service: Bound to every line.
        form: JSON lines, or text for a person at a terminal.
    """
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(name)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(_redact_record)


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Removes what may name a person: whole values under some keys, patterns in every text."""
    for key, value in event.items():
        if key in FORBIDDEN_KEYS:
            event[key] = REDACTED
        elif isinstance(value, str) and ("@" in value or "+" in value or "/" in value):
            event[key] = redact_text(value)
    return event


def redact_text(text: str) -> str:
    """Gives a text without addresses, phones and tokens of links.

    >>> redact_text("mail to anna@example.org failed")
    'mail to [redacted] failed'
    """
    text = _PHONE.sub(REDACTED, _MAIL.sub(REDACTED, text))
    return _LINK_TOKEN.sub(rf"/\1/{REDACTED}", text)


def _redact_record(record: logging.LogRecord) -> bool:
    record.msg = redact_text(record.getMessage())
    record.args = None
    return True
