"""CloudEvents over HTTP: a request in structured, batch or binary mode as raw events.

A raw event is a dictionary in the JSON format of CloudEvents, whatever mode it came in. What an
event must be beyond that is decided in `reception`.
"""

import json
import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import msgspec

from revisit_events.refusal import (
    RefusedError,
    malformed,
    too_large,
    unsupported_media_type,
)

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_EVENTS = 1_000
MAX_EVENT_BYTES = 256 * 1024

_read_json = msgspec.json.Decoder().decode
_MODES = f"send {STRUCTURED}, {BATCH}, or application/json with ce-* headers (binary mode)"
_MAX_NUMBER_CHARACTERS = 400
_JSON_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/(?:[a-z0-9!#$&^_.+-]+\+)?json$")


@dataclass(frozen=True, slots=True)
class RawRequest:
    """The raw events of a request."""

    is_batch: bool
    events: list[Any]
    is_large: bool
    """Whether the body is so long that one event alone may be past its limit."""


def raw_events(body: bytes, headers: Mapping[str, str]) -> RawRequest:
    """Gives the raw events of a request.

    Args:
        body: The whole body.
        headers: The request's headers with names in lower case.

    Raises:
        RefusedError: The request as a whole cannot be taken.
    """
    if len(body) > MAX_BODY_BYTES:
        raise RefusedError(too_large("a request may hold at most 4 MiB"))
    content_type = headers.get("content-type", "")
    media_type = _media_type(content_type)
    is_large = len(body) > MAX_EVENT_BYTES
    if media_type == BATCH:
        events = load_json(body)
        if not isinstance(events, list):
            raise RefusedError(malformed("a batch must be a JSON array of events"))
        if len(events) > MAX_EVENTS:
            raise RefusedError(too_large("a batch may hold at most 1,000 events"))
        return RawRequest(is_batch=True, events=events, is_large=is_large)
    if is_large:
        raise RefusedError(too_large("an event may have at most 256 KiB"))
    if media_type == STRUCTURED:
        event = load_json(body)
        if not isinstance(event, dict):
            raise RefusedError(malformed("an event must be a JSON object"))
    elif media_type.startswith("application/cloudevents"):
        raise RefusedError(unsupported_media_type(_MODES))
    else:
        event = _binary(body, headers, content_type)
    return RawRequest(is_batch=False, events=[event], is_large=False)


def is_json(media_type: str) -> bool:
    """Says whether a media type is JSON; parameters such as the charset do not count."""
    return _JSON_TYPE.match(media_type.partition(";")[0].strip().lower()) is not None


def load_json(body: bytes) -> Any:
    """Gives the JSON value of a body.

    What is legal JSON and yet cannot be stored (a lone surrogate, a number of a thousand digits)
    is let through, so that it spoils only the event it stands in, whose check finds it.

    Raises:
        RefusedError: The body is no JSON in UTF-8.
    """
    try:
        return _read_json(body)
    except (ValueError, RecursionError):
        return _load_carefully(body)


def _load_carefully(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_int=_whole_number, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise RefusedError(malformed("the body must be JSON in UTF-8")) from None


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) < _MAX_NUMBER_CHARACTERS else float("inf")


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _media_type(content_type: str) -> str:
    """Gives the media type of a structured or batch body, whose text must be in UTF-8."""
    media_type, _, parameters = content_type.partition(";")
    media_type = media_type.strip().lower()
    if parameters and media_type in {STRUCTURED, BATCH}:
        charset = re.search(r"charset\s*=\s*\"?([^\s\";]+)", parameters, re.IGNORECASE)
        if charset and charset[1].lower() not in {"utf-8", "us-ascii"}:
            raise RefusedError(unsupported_media_type("the charset must be UTF-8"))
    return media_type


def _binary(body: bytes, headers: Mapping[str, str], content_type: str) -> dict[str, Any]:
    """Gives an event in binary mode: attributes from ce-* headers, data as its type says."""
    event: dict[str, Any] = {}
    for name, value in headers.items():
        if name.startswith("ce-"):
            event[name[3:]] = _header_text(value)
    if not event:
        raise RefusedError(unsupported_media_type(_MODES))
    if content_type:
        event["datacontenttype"] = content_type
    if not content_type or is_json(content_type):
        if body:
            event["data"] = load_json(body)
        return event
    try:
        event["data"] = body.decode()
    except UnicodeDecodeError:
        event["data_base64"] = b64encode(body).decode()
    return event


def _header_text(value: str) -> str:
    """Undoes the percent-encoding that the HTTP binding prescribes for header values."""
    try:
        # Starlette gives header bytes as Latin-1; senders that skip the encoding send UTF-8.
        text = value.encode("latin-1").decode()
        return unquote(text.strip().strip('"'), errors="strict")
    except UnicodeError:
        raise RefusedError(malformed("a ce-* header is no UTF-8 text")) from None


def data_of(event: Mapping[str, Any]) -> Any:
    """Gives the data of a raw event; `data_base64` counts as its bytes.

    Raises:
        RefusedError: Both forms are there, or the bytes are no base64.
    """
    if "data_base64" not in event:
        return event.get("data")
    encoded = event["data_base64"]
    if "data" in event or not isinstance(encoded, str):
        raise RefusedError(malformed("an event has either data or data_base64"))
    try:
        content = b64decode(encoded, validate=True)
    except (Base64Error, ValueError):
        raise RefusedError(malformed("data_base64 must be base64")) from None
    content_type = event.get("datacontenttype", "application/json")
    return (
        load_json(content) if isinstance(content_type, str) and is_json(content_type) else content
    )
