"""Positions in lists that are sorted by a time and an id."""

from datetime import datetime
from uuid import UUID

from pydantic import TypeAdapter

from revisit_chassis.pages import position_of
from revisit_events.contracts.fields import Time

_POSITION = TypeAdapter(tuple[Time, UUID])


def time_and_id(cursor: str) -> tuple[datetime, UUID]:
    """The position of a cursor.

    Raises:
        Problem: 422, it is no cursor of such a list.
    """
    return position_of(cursor, 2, _POSITION)
