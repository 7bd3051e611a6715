"""Commands of feedback: `python -m feedback api | worker | migrate | dlq | outbox | rebuild | reencrypt`."""

import sys

from feedback.app import build_worker, create_app
from feedback.consumers import HANDLERS, PROJECTIONS
from feedback.rotation import ENCRYPTED
from feedback.settings import Settings
from revisit_events.service_main import service_main

if __name__ == "__main__":
    sys.exit(
        service_main(
            "feedback",
            Settings,
            create_app,
            build_worker,
            HANDLERS,
            PROJECTIONS,
            encrypted=ENCRYPTED,
        )
    )
