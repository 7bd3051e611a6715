"""Commands of engagement: `python -m engagement api | worker | migrate | dlq | outbox | rebuild | reencrypt`."""  # noqa: E501

import sys

from engagement.app import build_worker, create_app
from engagement.consumers import HANDLERS
from engagement.rotation import ENCRYPTED
from engagement.settings import Settings
from revisit_events import contracts as c
from revisit_events.rebuild import Projections
from revisit_events.service_main import service_main

PROJECTIONS: Projections = {
    "visit": (c.VisitCompleted,),
    "appointment": (
        c.AppointmentBooked,
        c.AppointmentRescheduled,
        c.AppointmentConfirmed,
        c.AppointmentCancelled,
        c.AppointmentNoShow,
        c.AppointmentNoShowReversed,
        c.VisitCompleted,
    ),
    "clinic": (c.ClinicRegistered,),
}
"""What a rebuild makes again. Patients are not among them: their contacts are not in the event log."""

if __name__ == "__main__":
    sys.exit(
        service_main(
            "engagement",
            Settings,
            create_app,
            build_worker,
            HANDLERS,
            PROJECTIONS,
            encrypted=ENCRYPTED,
        )
    )
