from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engagement.messages.windows import (
    QuietHours,
    is_known_zone,
    is_quiet,
    local_day,
    next_opening,
)

MINUTE = timedelta(minutes=1)
# Zones with the change of their clocks near the moments drawn: by an hour, by half an hour, at midnight.
CHANGES = {
    "Europe/Berlin": (datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)),
    "America/New_York": (datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)),
    "Australia/Lord_Howe": (
        datetime(2026, 4, 4, 15, tzinfo=UTC),
        datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
    ),
    "America/Santiago": (datetime(2026, 4, 5, 3, tzinfo=UTC), datetime(2026, 9, 6, 4, tzinfo=UTC)),
    "Europe/Moscow": (datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)),
}
WALLS = st.builds(time, st.integers(0, 23), st.sampled_from([0, 15, 30, 45]))


def by_the_minute(moment: datetime, zone: ZoneInfo, quiet: QuietHours) -> datetime:
    """The first minute that is not quiet, found by looking at each."""
    while is_quiet(moment, zone, quiet):
        moment += MINUTE
    return moment


@given(
    name=st.sampled_from(sorted(CHANGES)),
    is_autumn=st.booleans(),
    minutes=st.integers(-26 * 60, 6 * 60),
    start=WALLS,
    end=WALLS,
)
@example("Europe/Berlin", True, -20, time(2, 30), time(9))
@example("Europe/Berlin", False, -20, time(1, 30), time(2, 30))
def test_opening_is_the_first_moment_that_is_not_quiet(
    name: str, is_autumn: bool, minutes: int, start: time, end: time
) -> None:
    zone, quiet = ZoneInfo(name), QuietHours(start, end)
    moment = CHANGES[name][is_autumn] + minutes * MINUTE
    assert next_opening(moment, zone, quiet) == by_the_minute(moment, zone, quiet)


@given(
    name=st.sampled_from(sorted(CHANGES)), is_autumn=st.booleans(), minutes=st.integers(-3000, 3000)
)
def test_days_of_a_zone_meet_and_hold_their_moments(
    name: str, is_autumn: bool, minutes: int
) -> None:
    zone = ZoneInfo(name)
    moment = CHANGES[name][is_autumn] + minutes * MINUTE
    start, end = local_day(moment, zone)
    assert start <= moment < end
    day = moment.astimezone(zone).date()
    assert start.astimezone(zone).date() == day
    assert (start - timedelta(seconds=1)).astimezone(zone).date() < day
    assert local_day(end, zone)[0] == end


@pytest.mark.parametrize(
    ("name", "is_known"),
    [("Europe/Moscow", True), ("Mars/Base", False), ("../etc", False), ("", False)],
)
def test_zone_is_known_or_not(name: str, *, is_known: bool) -> None:
    assert is_known_zone(name) is is_known
