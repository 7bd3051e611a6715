"""Which events exist: type -> contract, topic, owner, consumers; upcasters of older versions.

Adding an event is a class in `contracts/` and a line in `_CONTRACTS`. A breaking change is a new
class with the next major version, on the same topic, and an upcaster from the old one here: writers
may still send the old version, readers see the new one only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from revisit_events import contracts
from revisit_events.contracts import EventData, SurveyAnswered, SurveyAnsweredV1

SERVICES = ("booking", "engagement", "feedback", "scoring")
"""The services of the platform; each is one consumer group as well."""

_CONTRACTS: tuple[type[EventData], ...] = (
    contracts.ClinicRegistered,
    contracts.PatientRegistered,
    contracts.PatientUpdated,
    contracts.PatientContactChanged,
    contracts.PatientErased,
    contracts.AppointmentBooked,
    contracts.AppointmentRescheduled,
    contracts.AppointmentConfirmed,
    contracts.AppointmentCancelled,
    contracts.AppointmentNoShow,
    contracts.AppointmentNoShowReversed,
    contracts.AppointmentAnswered,
    contracts.AppointmentNoShowRiskScored,
    contracts.LinkIssued,
    contracts.VisitCompleted,
    contracts.LeadLost,
    contracts.SlotFreed,
    contracts.JourneyEnrolled,
    contracts.MessageSent,
    contracts.MessageDelivered,
    contracts.MessageFailed,
    contracts.TaskOpened,
    contracts.TaskClosed,
    contracts.ConsentChanged,
    contracts.SurveyAnswered,
    contracts.ReviewPosted,
    contracts.ComplaintOpened,
    contracts.ComplaintResolved,
    contracts.ActionVerified,
    contracts.PatientSegmentChanged,
    contracts.PatientChurnRiskChanged,
    contracts.TokenRevoked,
)

CATALOG: Mapping[str, type[EventData]] = MappingProxyType(
    {contract.TYPE: contract for contract in _CONTRACTS}
)
"""Every current event type with its contract."""


@dataclass(frozen=True, slots=True)
class Upcaster:
    """How data of an older major version becomes the next one's."""

    contract: type[EventData]
    upcast: Callable[[Any], EventData]


_USUAL_SCALES: Mapping[str, tuple[float, float]] = {
    "csat": (1.0, 5.0),
    "nps": (0.0, 10.0),
    "ces": (1.0, 7.0),
    "servqual": (1.0, 7.0),
}


def _survey_answered_v2(old: SurveyAnsweredV1) -> SurveyAnswered:
    scale_min, scale_max = _USUAL_SCALES[old.kind]
    return SurveyAnswered(
        answer_id=old.answer_id,
        patient_id=old.patient_id,
        visit_id=old.visit_id,
        practitioner_id=old.practitioner_id,
        kind=old.kind,
        score=old.score,
        scale_min=scale_min,
        scale_max=scale_max,
    )


UPCASTERS: Mapping[str, Upcaster] = MappingProxyType(
    {SurveyAnsweredV1.TYPE: Upcaster(SurveyAnsweredV1, _survey_answered_v2)}
)
"""Older types that are still accepted."""

PUBLISHED: Mapping[str, type[EventData]] = MappingProxyType(
    {**CATALOG, **{old_type: upcaster.contract for old_type, upcaster in UPCASTERS.items()}}
)
"""Every type that may stand in a topic, older versions included."""


def upcast(data: EventData) -> EventData:
    """Gives data in the current version of its contract.

    Args:
        data: Data of any published version.
    """
    while upcaster := UPCASTERS.get(data.TYPE):
        data = upcaster.upcast(data)
    return data


@cache
def topic_of(event_type: str) -> str:
    """Gives the topic of an event type: its name without the version.

    >>> topic_of("visit.completed.v1")
    'visit.completed'
    """
    return event_type.rpartition(".v")[0]


def current_type(topic: str) -> str:
    """Gives the type that a topic's events have once upcast.

    Raises:
        KeyError: No event has this topic.
    """
    return _TYPE_OF_TOPIC[topic]


def types_owned_by(service: str) -> frozenset[str]:
    """Gives the current types that a service publishes."""
    return frozenset(t for t, contract in CATALOG.items() if service == contract.OWNER)


def types_consumed_by(service: str) -> frozenset[str]:
    """Gives the current types that a service has handlers for."""
    return frozenset(t for t, contract in CATALOG.items() if service in contract.CONSUMERS)


@cache
def schema_path(event_type: str) -> str:
    """Gives the URL path of a type's JSON Schema, the `dataschema` of its events.

    >>> schema_path("visit.completed.v1")
    '/schemas/visit.completed.v1.json'
    """
    return f"/schemas/{event_type}.json"


_TYPE_OF_TOPIC: Mapping[str, str] = {topic_of(event_type): event_type for event_type in CATALOG}

TOPICS: Mapping[str, type[EventData]] = MappingProxyType(
    {topic: CATALOG[event_type] for topic, event_type in _TYPE_OF_TOPIC.items()}
)
"""Every topic of the platform with the contract of its events, dead letters apart."""
