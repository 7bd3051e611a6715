"""Quiet hours in a person's own time zone: when a message may leave, and when it may leave next.

Pure; called by the gate and by the journeys. A moment is quiet when the wall clock of the zone
shows a time inside the window. Windows are start-inclusive and end-exclusive and may wrap midnight.
What follows for daylight saving: an opening that falls into a gap is the end of the gap (the first
moment whose wall clock is past it); an opening that happens twice is the first one that has not
passed; and where the clocks go back from inside the window to a time before it, that is an opening.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_TICK = timedelta(milliseconds=1)
_DAY = timedelta(days=1)
_MIDNIGHT = time()


@dataclass(frozen=True, slots=True)
class QuietHours:
    """A daily window without messages; `start == end` means that there is none."""

    start: time
    end: time

    def covers(self, wall: time) -> bool:
        """Whether a wall-clock time lies inside the window."""
        if self.start <= self.end:
            return self.start <= wall < self.end
        return wall >= self.start or wall < self.end


@lru_cache(maxsize=1024)
def zone_of(name: str) -> ZoneInfo:
    """The zone of an IANA name.

    Raises:
        zoneinfo.ZoneInfoNotFoundError: For an unknown name; booking refuses those at its edge.
    """
    return ZoneInfo(name)


@lru_cache(maxsize=4096)
def is_known_zone(name: str) -> bool:
    """Whether a name is that of an IANA zone; events from outside may hold anything."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def is_quiet(moment: datetime, zone: ZoneInfo, quiet: QuietHours) -> bool:
    """Whether a moment is inside the quiet hours of a zone."""
    return quiet.covers(moment.astimezone(zone).time())


def next_opening(moment: datetime, zone: ZoneInfo, quiet: QuietHours) -> datetime:
    """The first moment at or after the given one that is not quiet, in UTC."""
    opening = moment.astimezone(UTC)
    # More than once only where the clocks change and it is quiet once more.
    while quiet.covers((wall := opening.astimezone(zone)).time()):
        end, offset = _end_of_window(opening, wall, quiet)
        if offset != wall.utcoffset():
            # The clocks change on the way: it may be open sooner.
            change = _bisected(opening, end, zone)
            end = end if is_quiet(change, zone, quiet) else change
        opening = end
    return opening


def _bisected(early: datetime, late: datetime, zone: tzinfo | None) -> datetime:
    """The first moment whose offset is not that of `early`; offsets change on whole seconds."""
    offset = early.astimezone(zone).utcoffset()
    while late - early > _TICK:
        middle = early + (late - early) / 2
        if middle.astimezone(zone).utcoffset() == offset:
            early = middle
        else:
            late = middle
    return late.replace(microsecond=0)


def _end_of_window(
    moment: datetime, wall: datetime, quiet: QuietHours
) -> tuple[datetime, timedelta | None]:
    """The end of the window in which a moment lies, after it, and the offset of the clocks there.

    Args:
        moment: In UTC.
        wall: The same moment in the zone.
        quiet: The window.
    """
    zone = wall.tzinfo
    day = wall.date() if wall.time() < quiet.end else wall.date() + _DAY
    first, offset = _instant(day, quiet.end, zone)
    if first > moment:
        return first, offset
    second = datetime.combine(day, quiet.end, zone).replace(fold=1)
    return second.astimezone(UTC), second.utcoffset()


@lru_cache(maxsize=4096)
def _instant(day: date, wall: time, zone: tzinfo | None) -> tuple[datetime, timedelta | None]:
    """The instant of a wall-clock time of a day, and the offset of the clocks then.

    The few that many people share are computed once.
    """
    instant = _resolve(datetime.combine(day, wall, zone))
    return instant, instant.astimezone(zone).utcoffset()


def _resolve(wall: datetime) -> datetime:
    """The instant of a wall-clock time: the end of the gap when it does not exist, else its first."""
    late = wall.replace(fold=0).astimezone(UTC)
    if late.astimezone(wall.tzinfo).replace(tzinfo=None) == wall.replace(tzinfo=None):
        return late
    # In a gap fold=0 reads with the offset before it and lands past the change, fold=1 before it.
    early = wall.replace(fold=1).astimezone(UTC)
    return _bisected(early, late, wall.tzinfo)


def local_day(moment: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Start (inclusive) and end (exclusive) in UTC of the calendar day that a moment has in a zone."""
    day = moment.astimezone(zone).date()
    return _instant(day, _MIDNIGHT, zone)[0], _instant(day + _DAY, _MIDNIGHT, zone)[0]
