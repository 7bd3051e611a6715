"""How likely a patient is lost: a baseline by rule, with its reasons (docs/adr/0031)."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from scoring.domain.facts import Facts

MODEL_VERSION = "rhythm-3"
DEFAULT_INTERVAL_DAYS = 180.0
"""Rhythm of a service to which fewer than half have been seen to return: the usual six-month check-up."""
PRIOR_GAPS = 2.0
"""The service's rhythm weighs as much as this many gaps of the patient's own."""
RECENT = timedelta(days=180)
"""How long a missed appointment or a low score weighs."""
WORRY = 1.25
"""Each worry makes the days of silence count a quarter more."""
BOOKED = 0.2
"""The part of the risk that an appointment ahead leaves."""
STEP = 0.1
"""A probability is told anew once it has moved by this much."""
MOST = 0.99
"""Nobody is certainly lost: patients come back after years, and the rule is fitted on nobody."""


class Band(StrEnum):
    """How urgent a churn risk is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


BAND_FROM = ((0.7, Band.HIGH), (0.5, Band.MEDIUM))
"""Medium begins when the expected interval has passed, high at 1.3 of it."""


@dataclass(frozen=True, slots=True)
class Churn:
    """How likely a patient does not return by themselves."""

    probability: float
    band: Band
    reasons: tuple[str, ...]
    horizon_days: int
    """Days after which half of those like the patient have returned: what silence is held against."""


def expected_interval_days(facts: Facts) -> float:
    """Gives the days after which this patient usually returns.

    A shrunk mean: own gaps and the service's typical one, the latter with the weight of `PRIOR_GAPS`
    (empirical Bayes; Efron and Morris 1973). Days, at least 1.

    Args:
        facts: Of the patient.

    >>> from datetime import UTC
    >>> first = datetime(2026, 1, 1, tzinfo=UTC)
    >>> thrice = Facts(3, first, first + timedelta(days=60), "treated", service_interval_days=90.0)
    >>> expected_interval_days(thrice)  # (60 + 2 * 90) / (2 + 2)
    60.0
    """
    service = facts.service_interval_days or DEFAULT_INTERVAL_DAYS
    gaps = facts.visits - 1
    own_days = (facts.last_visit_at - facts.first_visit_at) / timedelta(days=1)
    return max(1.0, (own_days + PRIOR_GAPS * service) / (gaps + PRIOR_GAPS))


def churn_risk(facts: Facts, now: datetime) -> Churn:
    """Gives the probability that the patient does not return by themselves, with its reasons.

    The time to return is taken as Weibull with shape 2 (a return gets likelier the longer it is
    overdue) and the expected interval as its median, so the probability of having been lost after
    r expected intervals is F(r) = 1 - 2^(-r^2). r = w d / E: d days of silence, E the expected interval
    in days, w = 1.25 for each worry (a no-show or a low score in the last 180 days, a treatment not
    started). An appointment ahead leaves a fifth. From 0 to 0.99.

    Reasons are what weighs in the formula, on the scale on which it adds up, ln r: a worry ln 1.25, the
    overdue interval ln(d / E) once it is overdue, a booking ln 5, the heaviest first. Where none of them
    weighs, the reason is the interval that runs.

    Args:
        facts: Of the patient.
        now: Business time.

    >>> from datetime import UTC
    >>> day = datetime(2026, 1, 1, tzinfo=UTC)
    >>> once = Facts(1, day, day, "treated")
    >>> churn_risk(once, day + timedelta(days=180)).probability
    0.5
    >>> churn_risk(once, day + timedelta(days=270))
    Churn(probability=0.7898, band=<Band.HIGH: 'high'>, reasons=('overdue_service_rhythm',), horizon_days=180)
    """
    probability = round(_scale(facts, now) * min(MOST, _lost(overdue(facts, now))), 4)
    band = next((band for least, band in BAND_FROM if probability >= least), Band.LOW)
    horizon_days = round(expected_interval_days(facts))
    return Churn(probability, band, _reasons(facts, now), horizon_days)


def overdue(facts: Facts, now: datetime) -> float:
    """Gives r of `churn_risk`: the silence in expected intervals, worries counted in.

    Args:
        facts: Of the patient.
        now: Business time.
    """
    return _weight(facts, now) * facts.silent_days(now) / expected_interval_days(facts)


def risk_changes_at(facts: Facts, now: datetime) -> list[datetime]:
    """Gives the moments ahead at which the probability is worth telling anew.

    That is when it will have moved by `STEP`, crossed into a band or reached its most, when a worry is
    over, and when the last booking has begun. A patient at the most has no such moment: years of
    silence change nothing any more.

    Args:
        facts: Of the patient.
        now: Business time.
    """
    moments = [facts.booked_until] if facts.booked_until is not None else []
    moments += [worried_at + RECENT for worried_at in _dated_worries(facts, now)]
    scale = _scale(facts, now)
    present = scale * min(MOST, _lost(overdue(facts, now)))
    goals = (scale * MOST, present + STEP, *(least for least, _ in BAND_FROM))
    goal = min((goal for goal in goals if present < goal <= scale * MOST), default=None)
    if goal is not None:
        ratio = math.sqrt(-math.log2(1 - goal / scale))
        silent_days = ratio * expected_interval_days(facts) / _weight(facts, now)
        moments.append(facts.last_visit_at + timedelta(days=silent_days))
    return [moment for moment in moments if moment >= now]


def _lost(ratio: float) -> float:
    return 1.0 - math.pow(2, -(ratio**2))


def _scale(facts: Facts, now: datetime) -> float:
    return BOOKED if facts.is_booked(now) else 1.0


def _weight(facts: Facts, now: datetime) -> float:
    worries = len(_dated_worries(facts, now)) + (facts.last_outcome == "treatment_not_started")
    return float(WORRY**worries)


def _dated_worries(facts: Facts, now: datetime) -> list[datetime]:
    both = (facts.last_no_show_at, facts.last_low_score_at)
    return [at for at in both if at is not None and now - at < RECENT]


def _reasons(facts: Facts, now: datetime) -> tuple[str, ...]:
    found: list[tuple[float, str]] = []
    ratio = facts.silent_days(now) / expected_interval_days(facts)
    if ratio >= 1:
        rhythm = "overdue_own_rhythm" if facts.visits > 1 else "overdue_service_rhythm"
        found.append((math.log(ratio), rhythm))
    for code, at in (
        ("recent_no_show", facts.last_no_show_at),
        ("low_score", facts.last_low_score_at),
    ):
        if at is not None and now - at < RECENT:
            found.append((math.log(WORRY), code))
    if facts.last_outcome == "treatment_not_started":
        found.append((math.log(WORRY), "treatment_not_started"))
    if facts.is_booked(now):
        found.append((-math.log(BOOKED), "next_appointment_booked"))
    if not found:
        return ("interval_running",)
    return tuple(code for _, code in sorted(found, key=lambda one: (-one[0], one[1])))
