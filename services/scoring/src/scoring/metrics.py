"""Metrics of scoring."""

from prometheus_client import Counter

SET_ASIDE = Counter(
    "scoring_set_aside", "Patients whose scoring failed and who keep their last score.", ("work",)
)
