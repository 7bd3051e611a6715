"""Contracts as something to read, write, explain and document: all that is done with them as such.

Data is read twice only when something is wrong or unusual. msgspec reads what is well formed; what it does
not take is given to the contract's shape, a pydantic model of the same fields, which finds all that is
wrong, in words (`faults`), and has the last word. The JSON Schemas are the shapes' as well.
"""

import ast
import inspect
from collections.abc import Callable, Mapping
from functools import cache, reduce
from itertools import pairwise
from operator import or_
from textwrap import dedent
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, create_model

from revisit_chassis.identifiers import DriverUuid
from revisit_events.contracts import EventData
from revisit_events.contracts.fields import parts_of, read_special, times_of

D = TypeVar("D", bound=EventData)

_NUL = b"\\u0000"
_LONGEST_IN_UTC = len("2026-01-15T13:12:00.123456Z")
_LONGEST_WITH_OFFSET = len("2026-01-15T16:12:00.123456+03:00")
_encoder = msgspec.json.Encoder()

encode: Callable[[EventData], bytes] = _encoder.encode
"""Gives data as JSON: its contract's fields in their order, without what is none."""


def read(contract: type[D], given: dict[str, Any]) -> tuple[D, bytes]:
    """Gives data as its contract has it, and as JSON.

    Args:
        contract: The contract.
        given: The data as JSON values; ids and times may also be objects.

    Raises:
        pydantic.ValidationError: What is wrong with it, for `faults.explain`.
    """
    try:
        data = msgspec.convert(given, contract, dec_hook=read_special)
        encoded = encode(data)
    except (msgspec.ValidationError, UnicodeEncodeError):
        pass  # its shape knows why
    else:
        if not _has_nul(encoded) and _has_usual_times(contract, given):
            return data, encoded
    data = _by_shape(contract, shape_of(contract).model_validate(given))
    return data, encode(data)


def _has_nul(encoded: bytes) -> bool:
    # Nearly no event has anything escaped in it, and a single character is found in a third of the time.
    return b"\\" in encoded and _NUL in encoded


def _has_usual_times(contract: type[EventData], given: Mapping[str, Any]) -> bool:
    """Tells whether the times of data are written so that there is but one way to read them.

    msgspec, which has read them, also takes offsets without a colon, and rounds what is finer than a
    microsecond: `2026-01-15T16:12:00+0300` is no RFC 3339.
    """
    for name in times_of(contract):
        text = given.get(name)
        if type(text) is str and not (
            (text[-3] == ":" and len(text) <= _LONGEST_WITH_OFFSET)
            or (text[-1] in "Zz" and len(text) <= _LONGEST_IN_UTC)
        ):
            return False
    return True


def read_json(contract: type[D], value: bytes) -> D:
    """Gives data as its contract has it; of times, every form that msgspec reads will do.

    Args:
        contract: The contract.
        value: The data as JSON.

    Raises:
        pydantic.ValidationError: What is wrong with it, for `faults.explain`.
    """
    if not _has_nul(value):
        try:
            if not value.isascii():
                value.decode()  # what is in fields that a contract does not know is not looked at else
            data: D = _decoder(contract).decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass  # its shape knows why
        else:
            return data
    return _by_shape(contract, shape_of(contract).model_validate_json(value))


def checked(data: D) -> tuple[D, bytes]:
    """Gives data of our own as its readers will have it, and as JSON.

    Args:
        data: Of a published contract.

    Raises:
        ValueError: A field holds what the contract does not allow.
    """
    read_again = read_json(type(data), encode(data))
    return read_again, encode(read_again)


def with_fields_of(contract: type[D], data: EventData) -> D:
    """Gives data with the fields of a contract only.

    Args:
        contract: A contract that the data's own one extends.
        data: Of that contract, or with further fields.
    """
    return msgspec.convert(data, contract, from_attributes=True, dec_hook=read_special)


def _by_shape(contract: type[D], shaped: BaseModel) -> D:
    given = shaped.model_dump(by_alias=True, exclude_none=True)
    return msgspec.convert(given, contract, dec_hook=read_special)


@cache
def _decoder(contract: type[D]) -> "msgspec.json.Decoder[D]":
    return msgspec.json.Decoder(contract, dec_hook=read_special)


@cache
def names_of(contract: type[EventData]) -> frozenset[str]:
    """Gives the names of a contract's fields as they are written."""
    return frozenset(field.encode_name for field in msgspec.structs.fields(contract))


def id_fields(contract: type[EventData]) -> tuple[str, ...]:
    """Gives the names of a contract's fields that hold ids."""
    return tuple(
        field.name
        for field in msgspec.structs.fields(contract)
        if DriverUuid in parts_of(field.type)
    )


@cache
def shape_of(contract: type[Struct]) -> type[BaseModel]:
    """Gives the pydantic model that has the fields of a contract, or of a part of one.

    Args:
        contract: The contract.
    """
    kinds = get_type_hints(contract, include_extras=True)
    meanings = _meanings(contract)
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(contract):
        told: dict[str, Any] = {"description": meanings.get(field.name)}
        if field.encode_name != field.name:
            told["alias"] = field.encode_name
        if field.default_factory is not msgspec.NODEFAULT:
            told["default"] = field.default_factory()
        elif not field.required:
            told["default"] = field.default
        fields[field.name] = (_shaped(kinds[field.name]), Field(**told))
    return create_model(
        contract.__name__,
        __config__=ConfigDict(frozen=True, extra="ignore"),
        __doc__=contract.__doc__,
        **fields,
    )


def _shaped(kind: Any) -> Any:
    """Gives the kind of a field with shapes for the parts in it."""
    if get_origin(kind) in {Union, UnionType}:
        return reduce(or_, map(_shaped, get_args(kind)))
    return shape_of(kind) if isinstance(kind, type) and issubclass(kind, Struct) else kind


def _meanings(contract: type[Struct]) -> dict[str, str]:
    """Gives the text under each field in the source of a contract and those it extends."""
    found: dict[str, str] = {}
    for kind in reversed(contract.__mro__):
        if kind in {object, Struct} or not issubclass(kind, Struct):
            continue
        try:
            (written,) = ast.parse(dedent(inspect.getsource(kind))).body
        except OSError:  # there is none: the words are for documents alone
            continue
        for field, text in pairwise(getattr(written, "body", ())):
            match field, text:
                case (
                    ast.AnnAssign(target=ast.Name(name)),
                    ast.Expr(ast.Constant(str(meaning))),
                ):
                    found[name] = inspect.cleandoc(meaning)
    return found
