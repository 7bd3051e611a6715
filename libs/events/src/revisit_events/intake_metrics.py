"""Metrics of the intake."""

from prometheus_client import Counter

EVENTS = Counter(
    "revisit_intake_events",
    "Events sent to the intake, by what became of them: accepted, duplicate, refused.",
    ("service", "status"),
)
UNKNOWN_FIELDS = Counter(
    "revisit_intake_unknown_fields",
    "Fields of received events that their contract does not know; they were ignored.",
    ("service", "event_type"),
)
