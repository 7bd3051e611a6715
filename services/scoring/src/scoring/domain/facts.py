"""What is known of a patient who has completed a visit, and the clinic's calendar."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

WINDOW = timedelta(days=730)
"""Visits and charges of the last 24 months count for frequency and money."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a patient; money in minor units of the clinic's currency."""

    visits: int
    first_visit_at: datetime
    last_visit_at: datetime
    last_outcome: str
    complaint_visits: int = 0
    recent_visits: int = 0
    """Visits of the last `WINDOW`."""
    recent_since: datetime | None = None
    """The first of those: the next one to leave the window."""
    recent_charged_minor: int = 0
    """Charged for those."""
    average_cheque_minor: int | None = None
    """What the clinic's average paid visit costs; none while too few are known."""
    service_interval_days: float | None = None
    booked_until: datetime | None = None
    """Start of the last open booking."""
    last_no_show_at: datetime | None = None
    last_low_score_at: datetime | None = None
    birth_year: int | None = None
    family_id: object | None = None
    payer: str | None = None
    employer_id: object | None = None
    is_chronic: bool = False

    def is_booked(self, now: datetime) -> bool:
        """Tells whether an appointment is ahead.

        Args:
            now: Business time.
        """
        return self.booked_until is not None and self.booked_until > now

    def silent_days(self, now: datetime) -> float:
        """Gives the days since the last visit, at least 0.

        Args:
            now: Business time.
        """
        return max(0.0, (now - self.last_visit_at) / timedelta(days=1))


@lru_cache(maxsize=4096)
def zone_of(name: str | None) -> tzinfo:
    """Gives a clinic's time zone; UTC while the clinic is unknown or its zone is none of IANA's.

    Args:
        name: As the clinic registered it.
    """
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def next_midnight(moment: datetime) -> datetime:
    """Gives the first midnight after a moment, in the moment's own zone, as UTC.

    Args:
        moment: In the clinic's zone. Where the clocks skip midnight, the day begins when they go on.

    >>> next_midnight(datetime(2026, 3, 1, 22, 30, tzinfo=zone_of("Europe/Moscow"))).isoformat()
    '2026-03-01T21:00:00+00:00'
    """
    tomorrow = moment.date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(), moment.tzinfo).astimezone(UTC)
