"""What each key figure means, and the intervals they carry.

Intervals take cases as independent. Where a patient is counted several times (returns, waiting, answers),
cases of one patient resemble each other and the true interval is somewhat wider.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

Z95 = 1.959964
"""The 97.5 % point of the normal distribution."""
RETURN_DAYS = {"return_6_months": 182, "return_12_months": 365}
SHORT_WAIT_MINUTES = 15


@dataclass(frozen=True, slots=True)
class Definition:
    """What a key figure counts; a change of any word of it is a new version."""

    version: str
    unit: str
    population: str
    exclusions: str


_WAITED = (
    "completed visits with arrival and start, by their end",
    "visits without either time, or started before arrival",
)


def _returned(days: int) -> Definition:
    return Definition(
        "2",
        "share",
        f"completed visits at least {days} days before as_of, by their end; counted as returned from when "
        f"the same patient completed another on a later local day within {days} days",
        "visits not yet observed so long; a second visit on the same local day is no return",
    )


DEFINITIONS: Mapping[str, Definition] = {
    "no_show_rate": Definition(
        "2",
        "share",
        "appointments kept (a completed visit names them) or missed, by their planned start, the last "
        "one told where they were rescheduled; without one, by the visit's end or the mark's time",
        "cancelled and open appointments; visits without an appointment",
    ),
    "visits": Definition("1", "visits", "completed visits, by their end", "none"),
    "waiting_minutes": Definition("2", "minutes", *_WAITED),
    "waiting_under_15_minutes": Definition("1", "share", *_WAITED),
    **{kpi: _returned(days) for kpi, days in RETURN_DAYS.items()},
    "csat": Definition(
        "1",
        "share",
        "answers to the satisfaction question, by their time; 4 and 5 of 5 count",
        "questions left open",
    ),
    "nps": Definition(
        "2",
        "points",
        "answers to the recommendation question, by their time",
        "questions left open",
    ),
    "survey_response_rate": Definition(
        "1",
        "share",
        "visits whose survey link was issued in the span; those with a scored answer by as_of count",
        "answers that are a comment only; links that can still be answered count as unanswered",
    ),
}


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval and the number of cases behind it."""

    value: float | None
    low: float | None
    high: float | None
    n: int


NOTHING = Interval(None, None, None, 0)


def share(hits: int, n: int) -> Interval:
    """Gives a share, 0 to 1, with Wilson's 95 % score interval (Wilson 1927).

    Args:
        hits: Cases that count.
        n: All cases.

    >>> found = share(1, 4)
    >>> found.value, round(found.low, 4), round(found.high, 4)
    (0.25, 0.0456, 0.6994)
    """
    if n == 0:
        return NOTHING
    p = hits / n
    centre = p + Z95**2 / (2 * n)
    spread = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    # At 0 and 1 the limit is the value, but for the last digit of a float.
    low = max(0.0, min(p, (centre - spread) / scale))
    high = min(1.0, max(p, (centre + spread) / scale))
    return Interval(p, low, high, n)


def mean(total: float, total_of_squares: float, n: int) -> Interval:
    """Gives the mean of values that are never below 0, with Student's 95 % interval cut off at 0.

    m +- t(n - 1) s / sqrt(n), in the unit of the values (Student 1908). Waits are skewed, so with few
    cases the interval is rough; it never says less than no wait.

    Args:
        total: Sum of the values.
        total_of_squares: Sum of their squares.
        n: Number of values.

    >>> found = mean(10 + 20 + 30, 100 + 400 + 900, 3)  # s = 10, t(2) = 4.303
    >>> found.value, found.low, round(found.high, 2)
    (20.0, 0.0, 44.84)
    """
    if n == 0:
        return NOTHING
    value = total / n
    if n == 1:
        return Interval(value, None, None, 1)
    variance = max(0.0, (total_of_squares - n * value**2) / (n - 1))
    half = t95(n - 1) * math.sqrt(variance / n)
    return Interval(value, max(0.0, value - half), value + half, n)


def t95(degrees: int) -> float:
    """Gives the 97.5 % point of Student's distribution.

    Exact for 1 and 2 degrees; beyond, the expansion 26.7.5 of Abramowitz and Stegun (1964), whose error
    is below 0.01 at 3 degrees and falls fast.

    Args:
        degrees: Of freedom, at least 1.

    >>> [round(t95(degrees), 2) for degrees in (1, 2, 3, 10, 30)]
    [12.71, 4.3, 3.18, 2.23, 2.04]
    """
    if degrees == 1:
        return math.tan(0.475 * math.pi)
    if degrees == 2:  # noqa: PLR2004  (two degrees)
        return 0.95 / math.sqrt(2 * 0.975 * 0.025)
    z = Z95
    terms: tuple[float, ...] = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return sum(term / float(degrees) ** power for power, term in enumerate(terms))


def net_promoter_score(promoters: int, detractors: int, n: int) -> Interval:
    """Gives the NPS, -100 to 100, with its adjusted Wald 95 % interval.

    The share of 9 and 10 less that of 0 to 6, in points (Reichheld 2003). The interval adds three answers
    that nobody gave, 3/4 of a promoter, 3/4 of a detractor and 3/2 of a passive, and takes the normal
    interval of a case that counts +1, 0 or -1: the variant of Agresti and Coull's interval that covered
    best in Rocks, "Interval Estimation for the Net Promoter Score", The American Statistician 70, 2016.
    Without them two promoters would be an interval of no width. The value itself is never left out, as
    it would be for a single answer.

    Args:
        promoters: Answers 9 and 10.
        detractors: Answers 0 to 6.
        n: All answers.

    >>> found = net_promoter_score(2, 0, 2)  # 2.75 and 0.75 of 5: 40 +- 1.96 * sqrt(0.54 / 5)
    >>> found.value, round(found.low, 1), found.high
    (100.0, -24.4, 100.0)
    """
    if n == 0:
        return NOTHING
    cases = n + 3
    for_it, against = (promoters + 0.75) / cases, (detractors + 0.75) / cases
    centre = for_it - against
    half = Z95 * math.sqrt((for_it + against - centre**2) / cases)
    value = 100 * (promoters - detractors) / n
    low, high = 100 * (centre - half), 100 * (centre + half)
    return Interval(value, max(-100.0, min(value, low)), min(100.0, max(value, high)), n)
