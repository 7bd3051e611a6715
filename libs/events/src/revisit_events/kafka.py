"""An event as a Kafka record and back: CloudEvents binary mode.

Attributes are `ce_*` headers, the data is the value, a null value is a tombstone. Headers that are
not ours may hold anything and are never decoded.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from revisit_chassis.identifiers import DriverUuid
from revisit_events.catalog import PUBLISHED, UPCASTERS, schema_path, topic_of, upcast
from revisit_events.contracts import EventData
from revisit_events.contracts.fields import read_time
from revisit_events.envelope import (
    SEPARATOR,
    AnyEvent,
    Event,
    InvalidEvent,
    sequence_text,
    time_text,
    time_text_as_given,
)
from revisit_events.faults import explain
from revisit_events.shapes import read, read_json, shape_of

CONTENT_TYPE = "application/json"
_PREFIX = "ce_"
_READ = {
    _PREFIX + name: name
    for name in (
        *("specversion", "id", "source", "type", "subject", "time", "clinicid", "sequence"),
        *("correlationid", "causationid", "traceparent"),
    )
}
"""Attributes that say something; the others follow from these."""
_CONTRACTS = {(topic_of(name), name): contract for name, contract in PUBLISHED.items()}
_MAX_SEQUENCE_DIGITS = 20


def is_tombstone(data: EventData) -> bool:
    """Says whether the event removes what its compacted topic holds for the key."""
    return data.COMPACTED and getattr(data, "contact", data) is None


def attributes(event: AnyEvent) -> dict[str, str]:
    """Gives the CloudEvents attributes of an event by name, without those it has none of."""
    event_type = event.data.TYPE
    found = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event_type,
        "subject": event.subject,
        "time": time_text(event.time),
        "clinicid": str(event.clinic_id),
        "partitionkey": event.key,
        "dataschema": schema_path(event_type),
    }
    if event.sequence is not None:
        found["sequence"] = sequence_text(event.sequence)
    if event.correlation_id is not None:
        found["correlationid"] = event.correlation_id
    if event.causation_id is not None:
        found["causationid"] = event.causation_id
    if event.traceparent is not None:
        found["traceparent"] = event.traceparent
    return found


def decode(
    topic: str, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]
) -> AnyEvent:
    """Gives the event of a record, in the current version of its contract.

    Args:
        topic: Where the record stood.
        value: The data as JSON; none is a tombstone.
        headers: As the client gives them, foreign ones included.

    Raises:
        InvalidEvent: The record is no valid event of this topic.
    """
    found = _ce_headers(headers)
    return event_from(topic, found, value)


def event_from(topic: str, found: Mapping[str, str], value: bytes | None) -> AnyEvent:
    """Gives the event of attributes and data as they stand in a topic or an inbox.

    Args:
        topic: Topic of the event.
        found: CloudEvents attributes by name.
        value: The data as JSON; none is a tombstone.

    Raises:
        InvalidEvent: This is no valid event of the topic.
    """
    if found.get("specversion") != "1.0":
        raise InvalidEvent("specversion must be 1.0")
    event_type = found.get("type", "")
    contract = _CONTRACTS.get((topic, event_type))
    if contract is None:
        raise InvalidEvent("type is not known in this topic")
    data = upcast(_data(contract, found.get("subject"), value))
    as_written = value is not None and event_type not in UPCASTERS and _is_storable(value)
    time = _required(found, "time")
    return Event(
        id=_required(found, "id"),
        source=_required(found, "source"),
        time=_time(time),
        clinic_id=_uuid(_required(found, "clinicid")),
        data=data,
        subject=data.aggregate_id,
        sequence=_sequence(found.get("sequence")),
        correlation_id=found.get("correlationid"),
        causation_id=found.get("causationid"),
        traceparent=found.get("traceparent"),
        _encoded=value if as_written else None,
        _time_text=time_text_as_given(time),
    )


def _is_storable(value: bytes) -> bool:
    """Tells whether nothing in JSON that was read, in a field nobody knows say, is refused by PostgreSQL."""
    return not (b"\\u0000" in value or b"NaN" in value or b"Infinity" in value)


def _ce_headers(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    try:
        return {
            _READ[name]: value.decode()
            for name, value in headers
            if name in _READ and value is not None
        }
    except UnicodeDecodeError as fault:
        raise InvalidEvent("a ce_ header is no UTF-8 text") from fault


def _required(found: Mapping[str, str], name: str) -> str:
    text = found.get(name)
    if not text or "\0" in text or SEPARATOR in text:
        raise InvalidEvent(f"{name} is missing or no valid text")
    return text


def _data(contract: type[EventData], subject: str | None, value: bytes | None) -> EventData:
    if value is None and not contract.COMPACTED:
        raise InvalidEvent("only events of a compacted topic may be without data")
    try:
        if value is None:
            return read(contract, {contract.AGGREGATE_ID: subject})[0]
        return read_json(contract, value)
    except ValidationError as fault:
        raise InvalidEvent(*explain(fault, shape_of(contract))) from None


def _time(text: str) -> datetime:
    try:
        return read_time(text)
    except PydanticCustomError:
        raise InvalidEvent("time must be a time in RFC 3339, 1900 to 2199") from None


# A batch is of few clinics, and one object a clinic is quickly found again wherever it is a key.
@lru_cache(maxsize=4096)
def _uuid(text: str) -> UUID:
    try:
        return DriverUuid(text)
    except ValueError:
        raise InvalidEvent("clinicid must be a UUID") from None


def _sequence(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text) > _MAX_SEQUENCE_DIGITS or not (text.isascii() and text.isdigit()):
        raise InvalidEvent("sequence must be a number of at most 20 digits")
    return int(text)
