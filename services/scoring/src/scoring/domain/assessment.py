"""A patient's whole verdict, and when time alone will have made it stale (docs/adr/0016)."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from scoring.domain.churn import Churn, churn_risk, risk_changes_at
from scoring.domain.facts import Facts, next_midnight
from scoring.domain.rfm import Rfm, rfm_changes_at, rfm_of
from scoring.domain.segments import (
    LifeSituation,
    TreatmentState,
    life_situation_of,
    segments_change_at,
    treatment_state_of,
)

NEVER = timedelta(days=3650)
"""A patient whom time changes no more is looked at again in ten years."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """A patient's place on both axes, the RFM scores, the risk, and when to look again."""

    life_situation: LifeSituation
    treatment_state: TreatmentState
    rfm: Rfm
    churn: Churn
    review_at: datetime


def assess(facts: Facts, now: datetime) -> Assessment:
    """Gives what follows from a patient's facts.

    Args:
        facts: Of a patient with at least one visit.
        now: Business time, in the clinic's zone.
    """
    return Assessment(
        life_situation=life_situation_of(facts, now),
        treatment_state=treatment_state_of(facts, now),
        rfm=rfm_of(facts, now),
        churn=churn_risk(facts, now),
        review_at=review_at(facts, now),
    )


def review_at(facts: Facts, now: datetime) -> datetime:
    """Gives the first local midnight, as UTC, at which time alone will have changed what is told.

    Args:
        facts: Of the patient.
        now: Business time, in the clinic's zone.
    """
    moments = [
        *risk_changes_at(facts, now),
        *segments_change_at(facts, now),
        *rfm_changes_at(facts, now),
    ]
    return next_midnight(min(moments, default=now + NEVER).astimezone(now.tzinfo))
