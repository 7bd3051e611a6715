"""How a command's outcome becomes state and news: as the same events that others report."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from booking.domain.appointment import Appointment
from booking.projection import SOURCE, apply
from revisit_events.contracts import EventData
from revisit_events.envelope import AnyEvent, new_event
from revisit_events.outbox import publish


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
    correlation_id: str | None = None,
) -> AnyEvent:
    """The event that tells of an appointment's new state, at its version."""
    if after.status_at is None:
        raise ValueError(after.appointment_id)
    return new_event(
        data,
        source=SOURCE,
        clinic_id=clinic_id,
        time=after.status_at,
        sequence=after.version,
        cause=cause,
        correlation_id=correlation_id,
    )
