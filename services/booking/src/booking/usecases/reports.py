"""What clinic systems report: applied in any order, and never outweighed by a mere guess of ours.

The timer's no-show is dated to the planned start, so a cancellation of that morning that is reported in
the evening would lose to it, though it would have won an hour earlier: what stands would hang on arrival.
Booking therefore tells such a report again at the place of the guess, one sequence later; everybody
orders events by the same rule and comes to the same end, without knowing of guesses.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy.ext.asyncio import AsyncConnection

from booking.domain.appointment import NO_SHOW_GRACE
from booking.projection import SOURCE, apply
from booking.store import appointments
from booking.store.rows import Key
from booking.usecases.recording import record
from revisit_events.contracts import (
    AppointmentBooked,
    AppointmentCancelled,
    AppointmentConfirmed,
    VisitCompleted,
)
from revisit_events.envelope import AnyEvent, new_event

SPEAKS_OF_A_GUESS = (AppointmentBooked, AppointmentCancelled, VisitCompleted, AppointmentConfirmed)
"""Booked, moved, cancelled, or the patient was there after all: these contradict it. Confirmed does not."""


async def take_reports(
    connection: AsyncConnection,
    events: Sequence[AnyEvent],
    now: datetime,
    *,
    are_new: bool = False,
) -> None:
    """Applies reported events and corrects guesses that they contradict.

    Args:
        connection: Inside the transaction of the request.
        events: Events of types that booking owns.
        now: Moment of the request.
        are_new: Whether to guess that no visit of theirs was reported before.

    Raises:
        asyncpg.UniqueViolationError: That was wrong, and the transaction has failed.
    """
    await apply(connection, events, now, are_new=are_new)
    await correct_guesses(connection, events, now)


async def correct_guesses(
    connection: AsyncConnection, events: Sequence[AnyEvent], now: datetime
) -> int:
    """Tells again what lost to no more than a guess of the timer; gives how many reports that were.

    Args:
        connection: Inside a transaction of the clinics.
        events: Reports that were applied.
        now: Moment of the request.
    """
    # A guess is at least this old: reports of what happens now, nearly all, cost no statement.
    guessed_before = now - NO_SHOW_GRACE
    late = [
        (key, event)
        for event in events
        if event.time < guessed_before and (key := _appointment_of(event)) is not None
    ]
    if not late:
        return 0
    found = await appointments.lock_outweighed(
        connection, [(key, event.precedence) for key, event in late]
    )
    told: list[AnyEvent] = []
    guesses: list[tuple[Key, str, str]] = []
    for place, standing in sorted(found.items()):
        key, event = late[place]
        if isinstance(event.data, AppointmentConfirmed) and standing.is_no_show:
            # Who confirmed and did not come is a no-show all the same.
            guesses.append((key, standing.precedence, event.precedence))
            continue
        again = new_event(
            event.data,
            source=SOURCE,
            clinic_id=event.clinic_id,
            time=standing.at,
            sequence=standing.sequence + 1,
            cause=event,
            id=uuid5(NAMESPACE_URL, f"told again {event.source} {event.id}").hex,
        )
        told.append(again)
        guesses.append((key, again.precedence, event.precedence))
    await record(connection, told, now)
    await appointments.save_guesses(connection, guesses)
    return len(found)


def _appointment_of(event: AnyEvent) -> Key | None:
    appointment_id = getattr(event.data, "appointment_id", None)
    if appointment_id is None or not isinstance(event.data, SPEAKS_OF_A_GUESS):
        return None
    return event.clinic_id, appointment_id
