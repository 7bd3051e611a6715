"""Positions in lists that are sorted by a time and an id."""

from datetime import datetime
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from revisit_chassis.pages import decode_cursor
from revisit_chassis.problem import FieldError, Problem
from revisit_events.contracts.fields import Time

_POSITION = TypeAdapter(tuple[Time, UUID])


def time_and_id(cursor: str) -> tuple[datetime, UUID]:
    """The position of a cursor.

    Raises:
        Problem: 422, it is no cursor of such a list.
    """
    try:
        return _POSITION.validate_python(tuple(decode_cursor(cursor, 2)))
    except ValidationError as error:
        raise Problem(
            422,
            "invalid-cursor",
            "The cursor is not one that this list gave.",
            errors=[FieldError("/cursor", "not a cursor of this list")],
        ) from error
