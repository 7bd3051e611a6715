"""What a complaint is, how grave it is, by when it is due, and how it ends.

Pure values and decisions. The invariant: a case from a survey or a review has an id made from what
it came from, so that it is opened once, however often that is told.
"""

import uuid
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from revisit_chassis.problem import DomainError

DUE_AFTER = timedelta(hours=72)
UNCLASSIFIED = "unclassified"
LOW_REVIEW_AT_MOST = 2
REVIEW_RULE_VERSION = 1


class Severity(StrEnum):
    """How grave a complaint is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


_SEVERITY_LIMITS = {Severity.HIGH: (1, 1), Severity.MEDIUM: (2, 3)}


class Origin(StrEnum):
    """What a complaint came from."""

    SURVEY = "survey"
    REVIEW = "review"
    STAFF = "staff"


class ComplaintNotFoundError(DomainError):
    """There is no such complaint."""

    slug = "complaint-not-found"


class ComplaintResolvedError(DomainError):
    """The complaint is resolved already."""

    slug = "complaint-resolved"


@dataclass(frozen=True, slots=True)
class Complaint:
    """A complaint as it stands.

    `rule_version` is the version of the rule that opened it; None for one that staff recorded.
    """

    clinic_id: uuid.UUID
    complaint_id: uuid.UUID
    origin: Origin
    origin_id: uuid.UUID | None
    patient_id: uuid.UUID | None
    visit_id: uuid.UUID | None
    practitioner_id: uuid.UUID | None
    severity: Severity
    cause_code: str
    opened_at: datetime
    due_at: datetime
    rule_version: int | None = None
    text: bytes | None = None
    resolution_code: str | None = None
    resolution_text: bytes | None = None
    resolved_at: datetime | None = None
    resolved_by: str | None = None
    causes: int = 0
    version: int = 1

    @property
    def hours_to_resolve(self) -> float | None:
        """Time from opening to resolution, hours; None while it is open."""
        if self.resolved_at is None:
            return None
        return round((self.resolved_at - self.opened_at) / timedelta(hours=1), 2)

    def is_overdue(self, now: datetime) -> bool:
        """Whether it is open past its due time."""
        return self.resolved_at is None and now >= self.due_at


def case_id(clinic_id: uuid.UUID, origin: Origin, origin_id: uuid.UUID) -> uuid.UUID:
    """Id of the one case that a survey or a review can open."""
    return uuid.uuid5(clinic_id, f"complaint:{origin}:{origin_id}")


def severity_of_answers(csat: int | None, nps: int | None) -> Severity:
    """How grave low answers are: the worst answer on either scale decides.

    >>> severity_of_answers(1, 9), severity_of_answers(2, None), severity_of_answers(4, 6)
    (<Severity.HIGH: 'high'>, <Severity.MEDIUM: 'medium'>, <Severity.LOW: 'low'>)
    """
    for severity, (csat_at_most, nps_at_most) in _SEVERITY_LIMITS.items():
        if (csat is not None and csat <= csat_at_most) or (nps is not None and nps <= nps_at_most):
            return severity
    return Severity.LOW


def severity_of_rating(rating_1_to_5: int) -> Severity:
    """How grave a low rating in public is."""
    return Severity.HIGH if rating_1_to_5 <= 1 else Severity.MEDIUM


def classified(complaint: Complaint, cause_code: str) -> Complaint:
    """The complaint with one more cause recorded; the latest stands.

    A resolved complaint may still be classified: causes are often understood later.
    """
    return replace(
        complaint,
        cause_code=cause_code,
        causes=complaint.causes + 1,
        version=complaint.version + 1,
    )


def resolved(
    complaint: Complaint, resolution_code: str, text: bytes | None, *, by: str, now: datetime
) -> Complaint:
    """The complaint after somebody resolved it.

    Raises:
        ComplaintResolvedError: It was resolved before.
    """
    if complaint.resolved_at is not None:
        raise ComplaintResolvedError
    return replace(
        complaint,
        resolution_code=resolution_code,
        resolution_text=text,
        # A case is opened at the time of its fact, which a sender's clock may put after ours.
        resolved_at=max(now, complaint.opened_at),
        resolved_by=by,
        version=complaint.version + 1,
    )
