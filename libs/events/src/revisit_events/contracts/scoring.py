"""What scoring finds out about a patient."""

from typing import ClassVar

import msgspec

from revisit_events.contracts.fields import Code, Count, EventData, Id, Probability, written


class PatientSegmentChanged(EventData, frozen=True, kw_only=True):
    """A patient moved from one segment of an axis to another."""

    TYPE: ClassVar[str] = "patient.segment_changed.v1"
    OWNER: ClassVar[str] = "scoring"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement",)
    AGGREGATE_ID: ClassVar[str] = "patient_id"

    patient_id: Id
    """The patient."""
    axis: Code
    """The classification, such as `life_situation, treatment_state`."""
    from_: Code | None = msgspec.field(default=None, name="from")
    """The segment left; none for the first one."""
    to: Code
    """The segment entered."""


class PatientChurnRiskChanged(EventData, frozen=True, kw_only=True):
    """How likely the patient is not to come back changed noticeably."""

    TYPE: ClassVar[str] = "patient.churn_risk_changed.v1"
    OWNER: ClassVar[str] = "scoring"
    CONSUMERS: ClassVar[tuple[str, ...]] = ("engagement",)
    AGGREGATE_ID: ClassVar[str] = "patient_id"

    patient_id: Id
    """The patient."""
    probability: Probability
    """Probability that the patient does not come back by themselves, 0 to 0.99."""
    band: Code
    """`low, medium, high`."""
    horizon_days: Count
    """Days after which half of those like the patient have returned: what silence is held against."""
    main_reasons: tuple[Code, ...] = written(default=())
    """Codes of what weighs in the probability, the heaviest first; empty when nothing speaks for it."""
    model_version: Code
    """Version of the model."""
