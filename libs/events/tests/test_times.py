"""The quick way to read a time reads what the careful way reads, and nothing else."""

import itertools
from collections.abc import Callable
from datetime import datetime

import pytest
from pydantic_core import PydanticCustomError, ValidationError

from revisit_events.contracts import fields
from revisit_events.envelope import time_text, time_text_as_given

DAYS = (
    "2026-01-15",
    "2026-02-30",
    "1899-12-31",
    "1900-01-01",
    "2199-12-31",
    "2200-01-01",
    "0001-01-01",
)
HOURS = ("T16:12:00", "t16:12:00", " 16:12:00", "T24:00:00", "T16:12", "T16.12.00")
FRACTIONS = ("", ".5", ".123", ".123456", ",123456", ".123456789")
OFFSETS = ("Z", "z", "", "+00:00", "-00:00", "+03:00", "-03:00", "+0300")
FORBIDDEN_OFFSETS = ("+03:00:00", "-03:00:59", "+24:00", "+23:60", "+03:60", "-03:99")


def read(reader: Callable[[object], datetime], text: str) -> datetime | None:
    try:
        return reader(text)
    except (ValidationError, PydanticCustomError):
        return None


@pytest.mark.parametrize("day", DAYS)
def test_quick_reading_and_careful_reading_agree(day: str) -> None:
    for parts in itertools.product(HOURS, FRACTIONS, (*OFFSETS, *FORBIDDEN_OFFSETS)):
        text = day + "".join(parts)
        careful = read(fields._read_time_carefully, text)
        assert read(fields.read_time, text) == careful, text
        if careful is not None:
            assert time_text_as_given(text) in {None, time_text(careful)}, text


def test_what_the_quick_way_is_for_is_read() -> None:
    for text in ("2026-01-15T16:12:00.123456+03:00", "2026-01-15T13:12:00.123456Z"):
        assert time_text(fields.read_time(text)) == "2026-01-15T13:12:00.123456Z"
    assert read(fields.read_time, "2026-01-15T16:12:00.123+03:00:00") is None
