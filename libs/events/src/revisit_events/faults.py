"""Explains what is wrong with an event's data, in words for its sender.

Nothing of the data is repeated: what stands in a wrong field may be personal data.
"""

from collections.abc import Mapping
from functools import lru_cache

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from revisit_events.contracts.fields import Expected, parts_of

_MOST_FAULTS = 20

# Messages of pydantic that say what is wanted and nothing of what was there.
_SPEAKING = frozenset(
    {
        "bool_type",
        "date",
        "float_type",
        "greater_than_equal",
        "int_type",
        "less_than_equal",
        "literal_error",
        "string_too_long",
        "string_too_short",
        "string_type",
        "time",
        "tuple_type",
    }
)


def explain(
    fault: ValidationError, shape: type[BaseModel]
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Gives a sentence about the first fault, and each fault as (JSON pointer, detail).

    Args:
        fault: What validation of the data found.
        shape: Of the contract, which found it.
    """
    found = fault.errors(include_url=False, include_input=False)
    errors = tuple(_pointer_and_detail(error, shape) for error in found[:_MOST_FAULTS])
    first = found[0]
    place = ".".join(["data", *map(str, first["loc"])])
    if first["type"] == "missing":
        return f"{place} is required", errors
    return f"{place} must be {_expected(first, shape)}", errors


def pointer(*steps: str | int) -> str:
    """Gives a JSON pointer (RFC 6901).

    >>> pointer("data", "topics", 0)
    '/data/topics/0'
    """
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in steps)


def _pointer_and_detail(error: ErrorDetails, shape: type[BaseModel]) -> tuple[str, str]:
    where = pointer("data", *error["loc"])
    if error["type"] == "missing":
        return where, "Field required"
    if error["type"] in _SPEAKING:
        return where, error["msg"]
    return where, f"Input should be {_expected(error, shape)}"


def _expected(error: ErrorDetails, shape: type[BaseModel]) -> str:
    if error["type"] == "literal_error":
        return f"one of {error['ctx']['expected']}".replace("'", "")
    if error["type"] == "json_invalid":
        return "valid JSON"
    if error["type"] in {"model_type", "model_attributes_type"}:
        return "an object"
    if error["type"] == "tuple_type":
        return "a list"
    names = tuple(step for step in error["loc"] if isinstance(step, str))
    return _expectation(shape, names) or "valid"


@lru_cache(maxsize=1024)
def _expectation(shape: type[BaseModel], names: tuple[str, ...]) -> str | None:
    """Follows field names into nested models to the words for what the last one must be."""
    if not names:
        return None
    info = _field(shape.model_fields, names[0])
    if info is None:
        return None
    parts = [*info.metadata, *parts_of(info.annotation)]
    for part in parts:
        if isinstance(part, Expected) and len(names) == 1:
            return part.text
        if isinstance(part, type) and issubclass(part, BaseModel):
            return _expectation(part, names[1:])
    return None


def _field(fields: Mapping[str, FieldInfo], name: str) -> FieldInfo | None:
    return fields.get(name) or next((f for f in fields.values() if f.alias == name), None)
