"""Structured logs on standard output: fixed event names, keys, and nothing that names a person.

Everything a process says goes through `configure_logging`, the standard library's loggers (uvicorn,
asyncio, drivers) included. Of an exception the type and the frames are written, never its text: the text
may hold somebody's data, and no pattern knows a name.
"""

import io
import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

REDACTED = "[redacted]"
FORBIDDEN_KEYS = frozenset(
    (
        *("name", "family", "given", "middle", "birth_on", "phone", "email", "messengers"),
        *("to", "text", "body", "contact", "contacts", "token", "authorization", "password"),
    )
)
DEEPEST = 6
"""Values nested deeper are left out."""
MOST_FRAMES = 12

_SECRETS = re.compile(
    r"(?P<mail>[\w.+-]+@[\w-]+\.[\w.-]+)"
    r"|(?P<jwt>\beyJ[\w-]+\.[\w-]+\.[\w-]*)"
    # With a plus, in any of the usual groupings.
    r"|(?P<phone>\+[1-9](?:[ ()-]{0,2}\d){6,14}\b)"
    # Without one: ten to fifteen digits that are no part of a longer word, a number or a UUID; or the
    # usual grouping in threes, threes, twos and twos.
    r"|(?P<digits>(?<![\w.:-])\d{10,15}(?![\w:-]|\.\d))"
    r"|(?P<grouped>(?<![\w.:-])(?:\d[ -]?)?\(?\d{3}\)?[ -]\d{3}[ -]\d{2}[ -]?\d{2}\b)"
    # A path segment of at least 128 random bits: the token of a public address. No UUID is one.
    r"|(?P<segment>(?<=/)(?![0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b)"
    r"(?=[a-z_-]*[A-Z0-9])[\w-]{22,})"
)
# What every one of them has somewhere: most texts have none, and looking for this alone is cheap.
_SUSPECT = re.compile(r"[@+]|(?<![\w.:-])\d{7}|\d[ ()-]+\d|eyJ|/[\w-]{22}|exception=")
# Of our own making; the digits of a time are no phone.
_OWN_KEYS = frozenset(("level", "service", "method", "timestamp", "exception", "_record"))
# asyncio repeats the text of an exception in the repr of the task that raised it.
_RAISED = re.compile(r"(exception=\w+)\(.*\)", re.DOTALL)


def configure_logging(service: str, form: Literal["json", "console"] = "json") -> None:
    """Sets up the logs of a process.

    Args:
        service: Bound to every line.
        form: JSON lines, or text for a person at a terminal.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A log line must never fail, whatever half of a surrogate pair somebody sends.
        sys.stdout.reconfigure(errors="backslashreplace")
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        frames_only,
        redact,
    ]
    renderer = renderer_of(form)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def renderer_of(form: Literal["json", "console"]) -> structlog.typing.Processor:
    """Gives what makes a line of an event.

    Args:
        form: JSON lines, or text for a person at a terminal.
    """
    if form == "console":
        return structlog.dev.ConsoleRenderer()
    return json_line


# Neither escapes Cyrillic: that would hide a name from whoever searches the logs for it, and from the tests.
_quickly = msgspec.json.Encoder(enc_hook=repr).encode
_carefully = json.JSONEncoder(ensure_ascii=False, default=repr).encode


def json_line(_: WrappedLogger, __: str, event: EventDict) -> str:
    """Gives an event as JSON, whatever is in it."""
    try:
        return _quickly(event).decode()
    except (ValueError, TypeError):  # half of a surrogate pair; keys that are no texts
        return _carefully(event)


def frames_only(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Puts the types and frames of an exception in the place of its text."""
    raised = event.pop("exc_info", None)
    event.pop("stack_info", None)
    if isinstance(raised, tuple):
        raised = raised[1]
    elif raised and not isinstance(raised, BaseException):
        raised = sys.exc_info()[1]
    if isinstance(raised, BaseException):
        event["exception"] = described(raised)
    return event


def described(error: BaseException) -> list[str]:
    """Gives an exception and what led to it: a line for each type, followed by its frames.

    Args:
        error: Its text, and the texts of its causes, are left out.
    """
    lines: list[str] = []
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        lines.append(type(cause).__name__)
        frames = traceback.extract_tb(cause.__traceback__)[-MOST_FRAMES:]
        lines += [f"  {_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return lines


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Removes what may name a person: whole values under some keys, patterns in every text."""
    for key, value in event.items():
        if key in FORBIDDEN_KEYS:
            event[key] = REDACTED
        elif type(value) is str:
            if key not in _OWN_KEYS and _SUSPECT.search(value):
                event[key] = redact_text(value)
        elif type(value) is not int and type(value) is not float and not _is_own(key, value):
            event[key] = _redacted(value, 0)
    return event


def _is_own(key: str, value: Any) -> bool:
    """Tells whether a value was put there by the processors: the frames, the record of another logger."""
    return key == "_record" or (key in _OWN_KEYS and type(value) is list)


def redact_text(text: str) -> str:
    """Gives a text without addresses, phones and tokens.

    >>> redact_text("mail to anna@example.org failed")
    'mail to [redacted] failed'
    >>> redact_text("8 (916) 123-45-67, 79161234567")
    '[redacted], [redacted]'
    >>> redact_text("GET /s/0OqDnG3mZz8Yd7yq1l6c_g")
    'GET /s/[redacted]'
    """
    if _SUSPECT.search(text) is None:
        return text
    if "exception=" in text:
        text = _RAISED.sub(rf"\1({REDACTED})", text)
    return _SECRETS.sub(REDACTED, text)


def _redacted(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(str(value))
    if depth >= DEEPEST:
        return REDACTED
    if isinstance(value, Mapping):
        return {
            redact_text(str(key)): REDACTED
            if key in FORBIDDEN_KEYS
            else _redacted(inner, depth + 1)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(inner, depth + 1) for inner in value]
    return type(value).__name__ if isinstance(value, BaseException) else redact_text(str(value))


def _short(path: str) -> str:
    return "/".join(PurePath(path).parts[-2:])
