"""The two segment axes. Cut-offs are decisions of this project (docs/adr/0030), told with each."""

from datetime import datetime, timedelta
from enum import StrEnum

from scoring.domain.facts import Facts

SEGMENTS_VERSION = "1"
LIFE_SITUATION = "life_situation"
TREATMENT_STATE = "treatment_state"
"""Names of the axes: the same in events, columns and answers."""

LOST_AFTER = timedelta(days=365)
"""Twelve months without a visit: the project's brief calls such patients long lost."""
ELDERLY_FROM = 60
"""Age in years; the World Health Organization's older person."""
YOUNG_FROM = 18
YOUNG_BEFORE = 40
"""Years: from coming of age up to the first check-ups by age."""
OCCASIONAL_VISITS = 2
"""Up to so many visits, all of them for complaints, are visits in need and no habit yet."""


class LifeSituation(StrEnum):
    """First axis: who the patient is."""

    CORPORATE = "corporate"
    ELDERLY_CHRONIC = "elderly_chronic"
    FAMILY = "family"
    EMERGENCY_CONSULT = "emergency_consult"
    YOUNG_PROFESSIONAL = "young_professional"
    OTHER = "other"
    """None of the five fits, or too little is known."""


class TreatmentState(StrEnum):
    """Second axis: where the treatment stands, by the outcome of the last visit."""

    LOST = "lost"
    REFERRED = "referred"
    NOT_STARTED = "not_started"
    HEALTHY = "healthy"
    TREATED = "treated"
    IN_CARE = "in_care"
    """Being treated or observed: the treatment goes on, none of the five types yet."""


_BY_OUTCOME = {
    "referred_out": TreatmentState.REFERRED,
    "treatment_not_started": TreatmentState.NOT_STARTED,
    "healthy": TreatmentState.HEALTHY,
    "treated": TreatmentState.TREATED,
}


def life_situation_of(facts: Facts, now: datetime) -> LifeSituation:
    """Gives the first segment that fits: corporate, elderly or chronic, family, emergency, young.

    Args:
        facts: Of the patient.
        now: In the clinic's zone, for the age by calendar year: no birth date is known here.

    >>> from datetime import UTC
    >>> day = datetime(2026, 1, 1, tzinfo=UTC)
    >>> life_situation_of(Facts(3, day, day, "treated", birth_year=1966), day)
    <LifeSituation.ELDERLY_CHRONIC: 'elderly_chronic'>
    """
    age = None if facts.birth_year is None else now.year - facts.birth_year
    if facts.payer == "corporate" or facts.employer_id is not None:
        return LifeSituation.CORPORATE
    if facts.is_chronic or (age is not None and age >= ELDERLY_FROM):
        return LifeSituation.ELDERLY_CHRONIC
    if facts.family_id is not None:
        return LifeSituation.FAMILY
    if facts.visits <= OCCASIONAL_VISITS and facts.complaint_visits == facts.visits:
        return LifeSituation.EMERGENCY_CONSULT
    if age is not None and YOUNG_FROM <= age < YOUNG_BEFORE:
        return LifeSituation.YOUNG_PROFESSIONAL
    return LifeSituation.OTHER


def treatment_state_of(facts: Facts, now: datetime) -> TreatmentState:
    """Gives where the treatment stands; whoever is away for a year without a booking is lost.

    Args:
        facts: Of the patient.
        now: Business time.
    """
    if now - facts.last_visit_at >= LOST_AFTER and not facts.is_booked(now):
        return TreatmentState.LOST
    return _BY_OUTCOME.get(facts.last_outcome, TreatmentState.IN_CARE)


def segments_change_at(facts: Facts, now: datetime) -> list[datetime]:
    """Gives the moments ahead at which time alone can move the patient on an axis.

    Args:
        facts: Of the patient.
        now: In the clinic's zone.
    """
    moments = [facts.last_visit_at + LOST_AFTER]
    if facts.birth_year is not None:
        # The last moment of the year before: its next midnight is the birthday of all.
        moments += [
            datetime(facts.birth_year + age, 1, 1, tzinfo=now.tzinfo) - timedelta(microseconds=1)
            for age in (YOUNG_FROM, YOUNG_BEFORE, ELDERLY_FROM)
            if facts.birth_year + age > now.year
        ]
    return [moment for moment in moments if moment > now]
