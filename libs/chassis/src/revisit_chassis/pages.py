"""Lists in pages: `{"items": [...], "next": "opaque or null"}`."""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, TypeAdapter, ValidationError

from revisit_chassis.problem import FieldError, Problem

LONGEST_PAGE = 200

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=LONGEST_PAGE, description="Items a page")]
Cursor = Annotated[str | None, Query(description="`next` of the page before", max_length=1024)]


class Page(BaseModel, Generic[T]):
    """A part of a list, and where the next one begins."""

    items: list[T]
    next: str | None = None


def encode_cursor(position: Sequence[Any]) -> str:
    """Gives the text of a position.

    Args:
        position: Values of the sort columns of the page's last row, as JSON can hold them.
    """
    text = json.dumps(list(position), separators=(",", ":"), default=str)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(cursor: str, parts: int) -> list[Any]:
    """Gives the position of a cursor.

    Args:
        cursor: Text of `encode_cursor`.
        parts: How many values it must have.

    Raises:
        Problem: 422, it is no cursor of this list.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        position = json.loads(base64.urlsafe_b64decode(padded.encode()))
    except (binascii.Error, ValueError) as error:
        raise invalid_cursor() from error
    if not isinstance(position, list) or len(position) != parts:
        raise invalid_cursor()
    return position


def position_of(cursor: str, parts: int, shape: TypeAdapter[T]) -> T:
    """Gives the position of a cursor in the types of a list's sort columns.

    Args:
        cursor: Text of `encode_cursor`.
        parts: How many values it must have.
        shape: Of the values: of a tuple, or of the value itself where there is one.

    Raises:
        Problem: 422, it is no cursor of this list.
    """
    values = decode_cursor(cursor, parts)
    try:
        return shape.validate_python(tuple(values) if parts > 1 else values[0])
    except ValidationError as error:
        raise invalid_cursor() from error


def invalid_cursor() -> Problem:
    """Gives the problem of a cursor that its list did not give."""
    return Problem(
        422,
        "invalid-cursor",
        "The cursor is not one that this list gave.",
        errors=[FieldError("/cursor", "not a cursor of this list")],
    )
