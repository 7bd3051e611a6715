"""Where booking is put together: its API and its worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from booking import pages
from booking.api import appointments, clinics, patients, waiting
from booking.api.problems import PROBLEMS
from booking.consumers import HANDLERS
from booking.contracts import ReportedClinic
from booking.settings import Settings
from booking.store.named import keep_identifiers
from booking.usecases.no_show import NoShowTimer
from booking.usecases.reports import take_reports
from revisit_chassis.clock import Clock
from revisit_chassis.crypto import Keyring
from revisit_chassis.http import create_service_app
from revisit_chassis.runtime import api_state
from revisit_events import asyncapi
from revisit_events.catalog import CATALOG
from revisit_events.contracts import ClinicRegistered, PatientContactChanged, TokenRevoked
from revisit_events.intake import Intake
from revisit_events.intake_routes import mount_intake
from revisit_events.worker import Worker, compose_worker

_NOT_FROM_OUTSIDE = frozenset({PatientContactChanged.TYPE, TokenRevoked.TYPE})

TAKEN = tuple(
    ReportedClinic if contract is ClinicRegistered else contract
    for contract in CATALOG.values()
    # Contacts come encrypted under our own keys, and a revocation is a command of ours: neither can
    # be told from outside.
    if contract.OWNER == "booking" and contract.TYPE not in _NOT_FROM_OUTSIDE
)
"""What clinic systems may post."""


def create_app(settings: Settings, *, clock: Clock | None = None) -> FastAPI:
    """Gives the API: intake, clinics, patients, appointments, the pages behind links.

    Args:
        settings: Of the service.
        clock: Business time; by the settings when left out.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        keyring = Keyring.load(settings.keyring)
        async with api_state(settings, clock) as state:
            app.state.chassis = state
            app.state.keyring = keyring
            app.state.intake = Intake(
                state.database,
                service="booking",
                contracts=TAKEN,
                apply=take_reports,
                apply_new=partial(take_reports, are_new=True),
                keyring=keyring,
                clock=state.clock,
                remember=keep_identifiers,
                # The same right as for PUT /v1/clinics/{id}: a clinic's systems do not change its zone.
                scopes={ClinicRegistered.TYPE: "clinics:write"},
            )
            yield

    app = create_service_app(
        title="Booking",
        service="booking",
        lifespan=lifespan,
        problems=PROBLEMS,
        description="Clinics, patients, appointments, visits and no-shows.",
    )
    mount_intake(app)
    for module in (clinics, patients, appointments, waiting, pages):
        app.include_router(module.router)
    app.include_router(appointments.move_requests)
    app.include_router(asyncapi.routes("booking"))
    return app


def build_worker(settings: Settings, *, clock: Clock) -> Worker:
    """Gives the worker: consumer, relay and the no-show timer.

    Args:
        settings: Of the service.
        clock: Business time.
    """
    return compose_worker(settings, clock, HANDLERS, lambda database, _: [NoShowTimer(database)])
