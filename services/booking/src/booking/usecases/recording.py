"""How a command's outcome becomes state and news: as the same events that others report."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from booking.domain.appointment import Appointment
from booking.projection import SOURCE, apply
from booking.store.named import make_stubs
from revisit_events.contracts import EventData
from revisit_events.envelope import AnyEvent, new_event
from revisit_events.outbox import publish


def correlation_of_request() -> str | None:
    """Correlation id of the request in hand, as the chassis binds it for the logs; none elsewhere."""
    known = structlog.contextvars.get_contextvars().get("correlation_id")
    return str(known) if known else None


async def refer(
    connection: AsyncConnection,
    clinic_id: UUID,
    *,
    patient_id: UUID | None = None,
    practitioner_id: UUID | None = None,
    service_code: str | None = None,
) -> None:
    """Makes rows for what a command names, before it locks its appointment: batches come in this order.

    Args:
        connection: Inside the transaction of the command.
        clinic_id: The clinic.
        patient_id: Who may not be known yet.
        practitioner_id: The same.
        service_code: The same.
    """
    named = (patient_id, practitioner_id, service_code)
    await make_stubs(connection, *([(clinic_id, one)] if one else [] for one in named))


async def record(connection: AsyncConnection, events: Sequence[AnyEvent], now: datetime) -> None:
    """Applies events of booking's own making and hands them to the outbox.

    Args:
        connection: Inside the transaction of the command.
        events: What happened.
        now: Moment of the command.
    """
    if events:
        await apply(connection, events, now)
        await publish(connection, events)


def event_of(
    clinic_id: UUID,
    after: Appointment,
    data: EventData,
    cause: AnyEvent | None = None,
) -> AnyEvent:
    """The event that tells of an appointment's new state, after everything that stood before."""
    if after.status_at is None:
        raise ValueError(after.appointment_id)
    return new_event(
        data,
        source=SOURCE,
        clinic_id=clinic_id,
        time=after.status_at,
        sequence=after.own_sequence,
        cause=cause,
        correlation_id=correlation_of_request(),
    )
