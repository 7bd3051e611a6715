"""Commands of scoring: `python -m scoring api | worker | migrate | dlq | outbox | rebuild`."""

import sys

from revisit_events.service_main import service_main
from scoring.app import build_worker, create_app
from scoring.consumers import HANDLERS, PROJECTIONS
from scoring.settings import Settings

if __name__ == "__main__":
    sys.exit(service_main("scoring", Settings, create_app, build_worker, HANDLERS, PROJECTIONS))
