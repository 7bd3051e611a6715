"""Prometheus metrics of a service; several services may live in one process, so each has a label."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    Counter,
    Histogram,
    generate_latest,
)
from starlette.requests import Request
from starlette.responses import Response

REQUESTS = Counter("http_requests", "Requests answered.", ("service", "method", "route", "status"))
REQUEST_SECONDS = Histogram(
    "http_request_seconds",
    "Time from the request to its answer, seconds.",
    ("service", "route"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
SCHEDULE_FAULTS = Counter("schedule_faults", "Runs of due work that failed.", ("work",))


def metrics_page(_: Request) -> Response:
    """Gives the metrics of the process in Prometheus' text form."""
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)
