"""Metrics of delivery, each with its unit and meaning."""

from prometheus_client import Counter, Gauge, Histogram

OUTBOX_UNSENT = Gauge(
    "outbox_unsent", "Events waiting for the relay, counted up to 100,000.", ("service",)
)
UNSENDABLE_NOW = Gauge(
    "outbox_unsendable",
    "Messages put aside because they cannot be sent, until somebody decides.",
    ("service",),
)
DEAD_OPEN = Gauge("dead_letters_open", "Dead letters about which nobody has decided.", ("service",))
OUTBOX_OLDEST_SECONDS = Gauge(
    "outbox_oldest_seconds", "Age of the oldest event that waits for the relay.", ("service",)
)
UNSENDABLE = Counter(
    "relay_unsendable", "Messages put aside because they cannot be sent.", ("service",)
)
RELAYED = Counter("relay_sent", "Events acknowledged by the broker.", ("service", "topic"))
REFILLS = Counter("relay_refills", "Times the broker had lost its log.", ("service",))
HANDLED = Counter("consumer_handled", "Events applied.", ("service", "topic"))
REPEATED = Counter("consumer_repeated", "Events dropped by the inbox as repeats.", ("service",))
DEAD = Counter("consumer_dead_letters", "Messages put aside as dead letters.", ("service", "topic"))
BATCH_SECONDS = Histogram(
    "consumer_batch_seconds", "Time from a fetched batch to its commit.", ("service",)
)
BEHIND_SECONDS = Gauge(
    "consumer_behind_seconds",
    "How long ago everything in the member's stalest partition was applied.",
    ("service",),
)
TRIPPED = Gauge(
    "consumer_tripped", "1 when a flood of dead letters stopped the consumer.", ("service",)
)
FAULTS = Counter("delivery_faults", "Infrastructure faults waited out.", ("service", "part"))
