"""Who a patient is to the clinic, and how likely they are lost: pure rules over plain facts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

MODEL_VERSION = "rhythm-1"
DEFINITION_VERSION = "1"
HORIZON_DAYS = 180
LOST_AFTER = timedelta(days=365)
DEFAULT_INTERVAL_DAYS = 180.0
"""Rhythm of a service nobody has returned for yet: the usual six-month check-up."""
PRIOR_GAPS = 2.0
"""The service's rhythm weighs as much as this many gaps of the patient's own."""
RECENT = timedelta(days=180)
STEP = 0.05
"""A probability is told anew once it has moved by this much."""
ELDERLY_FROM = 60
YOUNG = range(18, 40)
OCCASIONAL_VISITS = 2


class Group(StrEnum):
    """First axis: who the patient is (mission A01)."""

    CORPORATE = "corporate"
    ELDERLY_CHRONIC = "elderly_chronic"
    FAMILY = "family"
    EMERGENCY_CONSULT = "emergency_consult"
    YOUNG_PROFESSIONAL = "young_professional"
    OTHER = "other"


class Standing(StrEnum):
    """Second axis: where the treatment stands (mission A02)."""

    LOST = "lost"
    REFERRED = "referred"
    NOT_STARTED = "not_started"
    HEALTHY = "healthy"
    TREATED = "treated"
    IN_CARE = "in_care"


class Band(StrEnum):
    """How urgent a churn risk is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


BAND_FROM = ((0.7, Band.HIGH), (0.4, Band.MEDIUM))


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a patient who has completed a visit."""

    visits: int
    first_visit_at: datetime
    last_visit_at: datetime
    charged_minor: int
    last_outcome: str
    complaint_visits: int
    service_interval_days: float | None = None
    has_future_booking: bool = False
    last_no_show_at: datetime | None = None
    last_low_score_at: datetime | None = None
    birth_year: int | None = None
    family_id: object | None = None
    payer: str | None = None
    employer_id: object | None = None
    is_chronic: bool = False


@dataclass(frozen=True, slots=True)
class Churn:
    """How likely a patient does not return by themselves."""

    probability: float
    band: Band
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Assessment:
    """A patient's place on both axes, the risk, and when it has to be looked at again."""

    group: Group
    standing: Standing
    churn: Churn
    review_at: datetime


def assess(facts: Facts, now: datetime) -> Assessment:
    """Gives a patient's segments and churn risk.

    Args:
        facts: Of a patient with at least one visit.
        now: Business time.
    """
    churn = churn_risk(facts, now)
    return Assessment(
        group=group_of(facts, now),
        standing=standing_of(facts, now),
        churn=churn,
        review_at=review_at(facts, churn, now),
    )


def group_of(facts: Facts, now: datetime) -> Group:
    """Gives the first segment that fits: corporate, elderly or chronic, family, emergency, young.

    Args:
        facts: Of the patient.
        now: For the age, by calendar year: no birth date is known here.
    """
    age = None if facts.birth_year is None else now.year - facts.birth_year
    if facts.payer == "corporate" or facts.employer_id is not None:
        return Group.CORPORATE
    if facts.is_chronic or (age is not None and age >= ELDERLY_FROM):
        return Group.ELDERLY_CHRONIC
    if facts.family_id is not None:
        return Group.FAMILY
    if facts.visits <= OCCASIONAL_VISITS and facts.complaint_visits == facts.visits:
        return Group.EMERGENCY_CONSULT
    if age is not None and age in YOUNG:
        return Group.YOUNG_PROFESSIONAL
    return Group.OTHER


def standing_of(facts: Facts, now: datetime) -> Standing:
    """Gives where the treatment stands; whoever is away for a year without a booking is lost.

    Args:
        facts: Of the patient.
        now: Business time.
    """
    if now - facts.last_visit_at >= LOST_AFTER and not facts.has_future_booking:
        return Standing.LOST
    by_outcome = {
        "referred_out": Standing.REFERRED,
        "treatment_not_started": Standing.NOT_STARTED,
        "healthy": Standing.HEALTHY,
        "treated": Standing.TREATED,
    }
    return by_outcome.get(facts.last_outcome, Standing.IN_CARE)


def expected_interval_days(facts: Facts) -> float:
    """Gives the days after which this patient usually returns.

    A shrunk mean: own gaps and the service's typical one, the latter with the weight of `PRIOR_GAPS`
    (empirical Bayes; Efron and Morris 1973). Days.

    Args:
        facts: Of the patient.
    """
    service = facts.service_interval_days or DEFAULT_INTERVAL_DAYS
    gaps = facts.visits - 1
    own_days = (facts.last_visit_at - facts.first_visit_at).total_seconds() / 86_400
    return max(1.0, (own_days + PRIOR_GAPS * service) / (gaps + PRIOR_GAPS))


def churn_risk(facts: Facts, now: datetime) -> Churn:
    """Gives the probability that the patient does not return by themselves, with its reasons.

    The time to return is taken as Weibull with shape 2 (a return gets likelier the longer it is
    overdue) and the expected interval as its median, so the probability of having been lost after
    r expected intervals is F(r) = 1 - 2^(-r^2), 0 to 1. A no-show or a low score in the last half
    year makes the days count a quarter more; a booking ahead leaves a fifth of the risk. A baseline
    by rule (docs/adr/0015): it is not fitted, and later models are measured against it.

    Args:
        facts: Of the patient.
        now: Business time.

    >>> day = datetime(2026, 1, 1, tzinfo=UTC)
    >>> once = Facts(1, day, day, 0, "treated", 0)
    >>> round(churn_risk(once, day + timedelta(days=180)).probability, 3)
    0.5
    """
    ratio = _overdue(facts, now)
    probability = 1 - math.pow(2, -(ratio**2))
    reasons = list(_reasons(facts, now, ratio))
    if facts.has_future_booking:
        probability /= 5
    band = next((band for least, band in BAND_FROM if probability >= least), Band.LOW)
    return Churn(round(probability, 4), band, tuple(reasons))


def _overdue(facts: Facts, now: datetime) -> float:
    days = max(0.0, (now - facts.last_visit_at).total_seconds() / 86_400)
    weight = 1.0
    for worried_at in (facts.last_no_show_at, facts.last_low_score_at):
        if worried_at is not None and now - worried_at <= RECENT:
            weight *= 1.25
    return weight * days / expected_interval_days(facts)


def _reasons(facts: Facts, now: datetime, ratio: float) -> Sequence[str]:
    found = []
    if ratio >= 1:
        found.append("overdue_own_rhythm" if facts.visits > 1 else "overdue_service_rhythm")
    if facts.last_no_show_at is not None and now - facts.last_no_show_at <= RECENT:
        found.append("recent_no_show")
    if facts.last_low_score_at is not None and now - facts.last_low_score_at <= RECENT:
        found.append("low_score")
    if facts.last_outcome == "treatment_not_started":
        found.append("treatment_not_started")
    found.append("next_appointment_booked" if facts.has_future_booking else "no_next_appointment")
    if facts.visits == 1:
        found.append("first_visit_only")
    return found


def review_at(facts: Facts, churn: Churn, now: datetime) -> datetime:
    """Gives the next midnight (UTC) at which time alone will have changed what is told.

    Args:
        facts: Of the patient.
        churn: As of now.
        now: Business time.
    """
    scale = 0.2 if facts.has_future_booking else 1.0
    goal = min(churn.probability / scale + STEP / scale, 0.999)
    ratio_now = _overdue(facts, now)
    ratio_then = math.sqrt(-math.log2(1 - goal))
    days = max(0.0, (now - facts.last_visit_at).total_seconds() / 86_400)
    rate = ratio_now / days if days else 1 / expected_interval_days(facts)
    moments = [now + timedelta(days=min(3650.0, max(0.0, ratio_then - ratio_now) / rate))]
    lost_at = facts.last_visit_at + LOST_AFTER
    if lost_at > now:
        moments.append(lost_at)
    for worried_at in (facts.last_no_show_at, facts.last_low_score_at):
        if worried_at is not None and worried_at + RECENT >= now:
            moments.append(worried_at + RECENT + timedelta(seconds=1))  # noqa: PERF401
    first = max(min(moments), now + timedelta(seconds=1)).astimezone(UTC)
    midnight = first.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval and the number of cases behind it."""

    value: float | None
    low: float | None
    high: float | None
    n: int


Z95 = 1.959964


def share(hits: int, n: int) -> Interval:
    """Gives a share with Wilson's 95 % interval (Wilson 1927).

    Args:
        hits: Cases that count.
        n: All cases.

    >>> share(1, 4).value
    0.25
    """
    if n == 0:
        return Interval(None, None, None, 0)
    p = hits / n
    centre = p + Z95**2 / (2 * n)
    spread = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    return Interval(p, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale), n)


def mean(total: float, total_of_squares: float, n: int) -> Interval:
    """Gives a mean with its normal 95 % interval.

    Args:
        total: Sum of the values.
        total_of_squares: Sum of their squares.
        n: Number of values.
    """
    if n == 0:
        return Interval(None, None, None, 0)
    value = total / n
    if n == 1:
        return Interval(value, None, None, 1)
    variance = max(0.0, (total_of_squares - n * value**2) / (n - 1))
    half = Z95 * math.sqrt(variance / n)
    return Interval(value, value - half, value + half, n)


def net_promoter_score(promoters: int, detractors: int, n: int) -> Interval:
    """Gives the NPS, -100 to 100, with its normal 95 % interval.

    The share of 9 and 10 less that of 0 to 6, in points; the variance of a case that counts +1, 0 or
    -1 (Reichheld 2003 for the score; Rocks 2016 for the interval).

    Args:
        promoters: Answers 9 and 10.
        detractors: Answers 0 to 6.
        n: All answers.

    >>> net_promoter_score(6, 2, 10).value
    40.0
    """
    found = mean(promoters - detractors, promoters + detractors, n)
    parts = [None if part is None else 100 * part for part in (found.value, found.low, found.high)]
    low = None if parts[1] is None else max(-100.0, parts[1])
    high = None if parts[2] is None else min(100.0, parts[2])
    return Interval(parts[0], low, high, n)
