"""Recency, frequency and money, each scored 1 to 5."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import datetime, timedelta

from scoring.domain.facts import WINDOW, Facts

RFM_VERSION = "1"
RECENT_DAYS = (90, 180, 365, 540)
"""Up to a quarter, half a year (the check-up rhythm), a year (then lost), a year and a half."""
OFTEN = (2, 3, 5, 8)
"""Least visits, or average cheques, of 24 months for the scores 2 to 5."""


@dataclass(frozen=True, slots=True)
class Rfm:
    """Scores from 1, the worst, to 5, the best; no score of money where no cheque is known."""

    recency: int
    frequency: int
    monetary: int | None


def rfm_of(facts: Facts, now: datetime) -> Rfm:
    """Gives a patient's RFM scores.

    Recency, frequency and monetary value are Hughes's three scores of 1 to 5 (Arthur M. Hughes,
    Strategic Database Marketing, 1994). Hughes cuts the base into quintiles; here the cuts are fixed,
    because a quintile of a clinic moves everyone's score with every visit of anybody, and a score that
    changed would say nothing of the patient. With fixed cuts it depends on the patient's own facts and
    the day only (and, for money, on the clinic's average cheque, found weekly).

    - recency: days since the last visit; up to 90: 5, 180: 4, 365: 3, 540: 2, longer: 1
    - frequency: visits of the last 730 days; from 8: 5, 5: 4, 3: 3, 2: 2, fewer: 1
    - monetary: charged in the last 730 days, in average cheques of the clinic; the cuts of frequency.
      Who pays the average cheque at each visit has the same score in both.

    Args:
        facts: Of the patient.
        now: Business time.

    >>> from datetime import UTC
    >>> day = datetime(2026, 1, 1, tzinfo=UTC)
    >>> paid = dict(recent_visits=4, recent_charged_minor=1_250_000, average_cheque_minor=250_000)
    >>> rfm_of(Facts(4, day, day, "treated", **paid), day + timedelta(days=100))
    Rfm(recency=4, frequency=3, monetary=4)
    """
    monetary = None
    if facts.average_cheque_minor:
        cheques = facts.recent_charged_minor / facts.average_cheque_minor
        monetary = 1 + bisect_right(OFTEN, cheques)
    return Rfm(
        recency=5 - bisect_left(RECENT_DAYS, facts.silent_days(now)),
        frequency=1 + bisect_right(OFTEN, facts.recent_visits),
        monetary=monetary,
    )


def rfm_changes_at(facts: Facts, now: datetime) -> list[datetime]:
    """Gives the moments ahead at which time alone can move a score.

    Args:
        facts: Of the patient.
        now: Business time.
    """
    moments = [facts.last_visit_at + timedelta(days=days) for days in RECENT_DAYS]
    if facts.recent_since is not None:
        moments.append(facts.recent_since + WINDOW)
    return [moment for moment in moments if moment >= now]
