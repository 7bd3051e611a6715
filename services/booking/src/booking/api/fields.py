"""Kinds of fields of booking's requests and answers."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated
from zoneinfo import available_timezones

from pydantic import AfterValidator, AwareDatetime, StringConstraints

from revisit_events.contracts import fields

NO_CONTROL = r"^[^\u0000-\u001f\u007f-\u009f]*$"


@lru_cache(maxsize=1)
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def known_zone(name: str) -> str:
    """The zone itself; a ValueError when there is none of that name."""
    if name not in _time_zones():
        raise ValueError("must be an IANA time zone, such as Europe/Moscow")
    return name


def _utc(time: datetime) -> datetime:
    if not fields.EARLIEST <= time < fields.LATEST:
        raise ValueError("must lie between 1900 and 2199")
    return time.astimezone(UTC)


OwnId = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=64, pattern=NO_CONTROL)
]
"""A UUID or the clinic's own identifier."""

Words = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=200, pattern=NO_CONTROL)
]
Zone = Annotated[str, StringConstraints(strict=True, max_length=64), AfterValidator(known_zone)]
Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
Phone = Annotated[str, StringConstraints(strict=True, pattern=r"^\+[1-9]\d{6,14}$")]
"""E.164, such as +79161234567."""

Email = Annotated[
    str,
    StringConstraints(
        strict=True,
        max_length=254,
        pattern=r"^[^\s@\u0000-\u001f<>\"(),:;\[\]\\]{1,64}@[^\s@\u0000-\u001f<>\"(),:;\[\]\\.]+(\.[^\s@\u0000-\u001f<>\"(),:;\[\]\\.]+)+$",
    ),
]
