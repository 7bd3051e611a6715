"""Raw events from outside as events of one clinic: checked, with canonical identifiers.

One bad event never blocks the others: it becomes a refusal with its index. The usual event costs
one pass of the contract's reader; words are looked for only when something is wrong.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from pydantic_core import PydanticCustomError, to_json

from revisit_chassis.identifiers import DriverUuid, canonical_id
from revisit_chassis.trace import current_traceparent, is_traceparent
from revisit_events.catalog import CATALOG, upcast
from revisit_events.contracts import EventData
from revisit_events.contracts.fields import read_time
from revisit_events.envelope import AnyEvent, Event, time_text_as_given
from revisit_events.faults import explain
from revisit_events.http import MAX_EVENT_BYTES, RawRequest, data_of, is_json
from revisit_events.refusal import (
    Refusal,
    RefusedError,
    invalid_attribute,
    invalid_event,
    other_clinic,
    too_large,
    unknown_type,
    unsupported_version,
)
from revisit_events.shapes import id_fields, names_of, read, shape_of

_UUID_LENGTH = 36
_MAX_IDENTIFIER = 64
_MAX_ATTRIBUTE = 256
_MAX_SEQUENCE = 2**63 - 1
_NO_TIME = invalid_attribute("time", "must be an RFC 3339 time with an offset, 1900 to 2199")
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Accepted = Mapping[str, type[EventData]]
"""The types a service takes from outside, with the contract of each."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that was not taken."""

    index: int
    id: str | None
    refusal: Refusal


@dataclass(slots=True)
class Reception:
    """What came of a request's events."""

    clinic_id: UUID
    raw: list[Any]
    """The events as they came."""
    events: list[tuple[int, AnyEvent]] = field(default_factory=list)
    """The valid ones with their place in the request."""
    refused: list[Refused] = field(default_factory=list)
    identifiers: dict[tuple[str, str], UUID] = field(default_factory=dict)
    """The clinic's own identifiers that were met: (noun, identifier) with the UUID of each."""
    unknown_fields: Counter[str] = field(default_factory=Counter)
    """Number of fields that a type's contract does not know."""
    traceparent: str | None = None
    """Trace of the request, for events that name none."""


def receive(request: RawRequest, clinic_id: UUID, accepted: Accepted) -> Reception:
    """Checks the events of a request.

    Args:
        request: The raw events.
        clinic_id: The caller's clinic.
        accepted: The types that are taken.
    """
    # The driver's class, as all ids in the events are.
    reception = Reception(
        DriverUuid(clinic_id.bytes), request.events, traceparent=current_traceparent()
    )
    clinic_text = str(clinic_id)
    events = reception.events
    for index, raw in enumerate(request.events):
        try:
            if request.is_large and _size_bytes(raw) > MAX_EVENT_BYTES:
                raise RefusedError(too_large("an event may have at most 256 KiB"))  # noqa: TRY301
            events.append((index, _event(raw, clinic_text, accepted, reception)))
        except RefusedError as fault:
            reception.refused.append(Refused(index, fitting_text(raw, "id"), fault.refusal))
    return reception


def _size_bytes(raw: Any) -> int:
    try:
        return len(to_json(raw))
    except ValueError:  # a lone surrogate: the length of its escaped form will do
        try:
            return len(json.dumps(raw))
        except RecursionError:  # read and too deep to be written: nobody means that
            return MAX_EVENT_BYTES + 1


def _event(raw: Any, clinic_text: str, accepted: Accepted, reception: Reception) -> AnyEvent:
    if type(raw) is not dict:
        raise RefusedError(invalid_event("an event must be a JSON object"))
    version = raw.get("specversion")
    if version != "1.0":
        raise RefusedError(unsupported_version(is_v03=version == "0.3"))
    event_id = _text(raw, "id")
    source = _text(raw, "source")
    event_type = raw.get("type")
    contract = accepted.get(event_type) if type(event_type) is str else None
    if contract is None:
        _text(raw, "type")  # says what is wrong with a type that is no text
        raise RefusedError(unknown_type(tuple(accepted)))
    clinic = raw.get("clinicid")
    if clinic is not None and clinic != clinic_text:
        _same_clinic(clinic, clinic_text)
    given_time: Any = raw.get("time")
    try:
        time = read_time(given_time)
    except PydanticCustomError:
        raise RefusedError(_NO_TIME) from None
    data, encoded = _data(raw, contract, reception)
    if contract.AGGREGATE_ID == "clinic_id" and data.aggregate_id != clinic_text:
        raise RefusedError(other_clinic())
    return Event(
        event_id,
        source,
        time,
        reception.clinic_id,
        data,
        data.aggregate_id,
        _sequence(raw["sequence"]) if "sequence" in raw else None,
        _optional_text(raw, "correlationid") if "correlationid" in raw else None,
        _optional_text(raw, "causationid") if "causationid" in raw else None,
        (_trace(raw) if "traceparent" in raw else None) or reception.traceparent,
        encoded,
        time_text_as_given(given_time),
    )


def _data(
    raw: dict[str, Any], contract: type[EventData], reception: Reception
) -> tuple[EventData, bytes | None]:
    """Gives the data of an event, and as JSON too where that is what will be published."""
    content_type = raw.get("datacontenttype")
    if content_type is not None and content_type != "application/json":
        _json_only(content_type)
    given = data_of(raw)
    if type(given) is not dict:
        raise RefusedError(
            invalid_event("data must be an object", (("/data", "Input should be an object"),))
        )
    try:
        data, encoded = read(contract, _with_uuids(given, contract, reception))
    except ValidationError:
        # An own identifier may happen to be as long as a UUID, and a null says no more than nothing.
        told = {name: value for name, value in given.items() if value is not None}
        converted = _with_uuids(told, contract, reception, every=True)
        try:
            data, encoded = read(contract, converted)
        except ValidationError as fault:
            raise RefusedError(invalid_event(*explain(fault, shape_of(contract)))) from None
    if not (known := names_of(contract)).issuperset(given):
        reception.unknown_fields[contract.TYPE] += len(given.keys() - known)
    if CATALOG.get(contract.TYPE) is contract:
        return data, encoded
    return upcast(data), None


def _with_uuids(
    given: dict[str, Any], contract: type[EventData], reception: Reception, *, every: bool = False
) -> dict[str, Any]:
    """Gives the data with the clinic's own identifiers replaced by their UUIDs.

    Args:
        given: The data as it came; it is not changed, because a refused event is kept as it came.
        contract: Its contract.
        reception: Keeps the identifiers met.
        every: Also looks at identifiers as long as a UUID's text.
    """
    data = given
    for name, noun in identifier_fields(contract):
        identifier = given.get(name)
        if type(identifier) is not str or (len(identifier) == _UUID_LENGTH and not every):
            continue
        known = reception.identifiers.get((noun, identifier))
        if known is None:
            if not identifier or len(identifier) > _MAX_IDENTIFIER or not _is_fit(identifier):
                continue
            known = canonical_id(reception.clinic_id, noun, identifier)
            if str(known) != identifier.lower():
                reception.identifiers[noun, identifier] = known
        if data is given:
            data = given.copy()
        data[name] = known
    return data


@lru_cache(maxsize=256)
def identifier_fields(contract: type[EventData]) -> tuple[tuple[str, str], ...]:
    """Gives the fields of a contract that hold ids, each with the noun it is an id of."""
    return tuple(
        (name, name.removesuffix("_id")) for name in id_fields(contract) if name.endswith("_id")
    )


def _text(raw: dict[str, Any], name: str) -> str:
    text = raw.get(name)
    if type(text) is not str or not 0 < len(text) <= _MAX_ATTRIBUTE or not _is_fit(text):
        raise RefusedError(
            invalid_attribute(name, "must be a text of 1 to 256 characters, none of control")
        )
    return text


def _optional_text(raw: dict[str, Any], name: str) -> str | None:
    return None if raw.get(name) is None else _text(raw, name)


def _trace(raw: dict[str, Any]) -> str | None:
    """Gives the trace that an event names; what is none is no trace, and no fault of the fact's."""
    given = raw["traceparent"]
    return given if type(given) is str and is_traceparent(given) else None


def fitting_text(raw: Any, name: str) -> str | None:
    """Gives an attribute of a raw event, if it is one that can be stored and answered.

    Args:
        raw: The event as it came.
        name: The attribute.
    """
    given = raw.get(name) if type(raw) is dict else None
    is_fit = type(given) is str and len(given) <= _MAX_ATTRIBUTE and _is_fit(given)
    return given if is_fit else None


def _is_fit(text: str) -> bool:
    # What is printable has nothing of control, and is known five times as fast.
    return text.isprintable() or _UNFIT.search(text) is None


def _sequence(given: Any) -> int | None:
    if given is None:
        return None
    if type(given) is str and given.isascii() and given.isdigit() and len(given) <= 20:  # noqa: PLR2004
        given = int(given)
    if type(given) is not int or not 0 <= given <= _MAX_SEQUENCE:
        raise RefusedError(
            invalid_attribute("sequence", f"must be a whole number, at most {_MAX_SEQUENCE}")
        )
    return given


def _same_clinic(given: Any, clinic_text: str) -> None:
    try:
        same = UUID(given) == UUID(clinic_text)
    except (ValueError, TypeError, AttributeError):
        raise RefusedError(invalid_attribute("clinicid", "must be a UUID")) from None
    if not same:
        raise RefusedError(other_clinic())


def _json_only(content_type: Any) -> None:
    if type(content_type) is not str or not is_json(content_type):
        raise RefusedError(invalid_attribute("datacontenttype", "must be application/json"))
