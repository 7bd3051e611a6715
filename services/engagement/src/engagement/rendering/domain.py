"""How people write names and times. Pure.

Dates are written out by hand: the process's locale must not decide what a patient reads.
"""

from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

LANGUAGES = ("ru", "en")
FALLBACK = "en"

_MONTHS: Mapping[str, tuple[str, ...]] = {
    "ru": (
        *("января", "февраля", "марта", "апреля", "мая", "июня"),
        *("июля", "августа", "сентября", "октября", "ноября", "декабря"),
    ),
    "en": (
        *("January", "February", "March", "April", "May", "June"),
        *("July", "August", "September", "October", "November", "December"),
    ),
}
_NAME_LIMIT = 60


def supported_language(*wishes: str | None) -> str:
    """The first wished language that there are texts for: the patient's, then the clinic's.

    >>> supported_language(None, "ru-RU")
    'ru'
    """
    for wish in wishes:
        tag = (wish or "").split("-")[0].lower()
        if tag in LANGUAGES:
            return tag
    return FALLBACK


def written_day(moment: datetime, zone: ZoneInfo, language: str) -> str:
    """The day as people write it, in their zone: "15 января"."""
    local = moment.astimezone(zone)
    return f"{local.day} {_MONTHS[language][local.month - 1]}"


def written_time(moment: datetime, zone: ZoneInfo, language: str) -> str:
    """Day and time as people write them, in their zone: "15 января, 15:30"."""
    return f"{written_day(moment, zone, language)}, {moment.astimezone(zone):%H:%M}"


def greeting(language: str, given: str | None, middle: str | None) -> str:
    """The first line of a letter; without a name when none is known."""
    hello = "Здравствуйте" if language == "ru" else "Hello"
    parts = [given, middle] if language == "ru" else [given]
    name = one_line(" ".join(part for part in parts if part))
    return f"{hello}, {name}!" if name else f"{hello}!"


def one_line(text: str) -> str:
    """A name fit for a header or a text message: one line, of a sensible length."""
    return " ".join(text.split())[:_NAME_LIMIT]
