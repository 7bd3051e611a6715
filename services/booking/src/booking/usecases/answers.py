"""What patients answer, by a link's page or by a message that engagement received."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from booking.domain.appointment import SYSTEM, Appointment, Status
from booking.domain.errors import IllegalMove, NotFound
from booking.domain.link import Answer, Link, LinkState, Reply, answer, state_of
from booking.store import appointments, links
from booking.usecases.appointments import cancelled_data, confirmed_data
from booking.usecases.recording import event_of, record
from booking.usecases.reports import correct_guesses
from revisit_events.envelope import AnyEvent, time_text


@dataclass(frozen=True, slots=True)
class Received:
    """A reply with the event that brought it."""

    reply: Reply
    cause: AnyEvent | None = None


async def take_answers(
    connection: AsyncConnection, received: Sequence[Received], now: datetime
) -> int:
    """Does what patients asked for; what has been overtaken by events is left alone.

    Args:
        connection: Inside a transaction of the clinics.
        received: Replies in the order of arrival.
        now: Moment of the command.

    Returns:
        How many replies stand now: those that changed something or said what stood already.
    """
    followed = 0
    for round_ in _rounds(received):
        followed += await _take_round(connection, round_, now)
    return followed


async def use_link(
    connection: AsyncConnection,
    clinic_id: UUID,
    token_hash: str,
    reason_code: str | None,
    shown: str | None,
    now: datetime,
) -> tuple[Link, LinkState]:
    """Follows a link, once for a start, and only for the start that the patient has seen.

    Args:
        connection: Inside a transaction of the clinic.
        clinic_id: The clinic of the link.
        token_hash: SHA-256 of its token, hexadecimal.
        reason_code: Why, for a cancellation.
        shown: The start that the page showed, as `time_text` writes it; None where the form did not say
            (a page of an earlier release, or a program): then it acts only if the start is still the one
            that the patient knows.
        now: Moment of the tap.

    Returns:
        The link as it was found, and what it could still do: only an open one has acted.

    Raises:
        NotFound: No such link, or its patient was erased.
    """
    link = await links.link(connection, clinic_id, token_hash, for_update=True)
    if link is None:
        raise NotFound("link")
    state = state_of(link, now)
    if state is LinkState.OPEN:
        if not _has_seen(link, shown):
            return link, LinkState.UNSEEN
        reply = Reply(
            clinic_id,
            link.appointment.appointment_id,
            link.purpose,
            reason_code,
            # The clinic system's clock may be ahead; the page has shown the time that stands.
            max(now, link.appointment.status_at or now),
        )
        if not await take_answers(connection, [Received(reply)], now):
            return link, LinkState.OVER
        await links.mark_link_used(connection, clinic_id, token_hash, now, link.starts_at)
    return link, state


def _has_seen(link: Link, shown: str | None) -> bool:
    if link.starts_at is None:
        return False
    if shown is None:
        return link.starts_at == link.known_start
    return shown == time_text(link.starts_at)


def _rounds(received: Sequence[Received]) -> list[list[Received]]:
    """Splits replies so that each round has an appointment once, in order of arrival."""
    rounds: list[list[Received]] = []
    seen: dict[tuple[UUID, UUID], int] = {}
    for each in received:
        key = (each.reply.clinic_id, each.reply.appointment_id)
        number = seen.get(key, 0)
        seen[key] = number + 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(each)
    return rounds


async def _take_round(
    connection: AsyncConnection, received: Sequence[Received], now: datetime
) -> int:
    keys = [(each.reply.clinic_id, each.reply.appointment_id) for each in received]
    found = await appointments.lock_appointments(connection, keys)
    events: list[AnyEvent] = []
    late: list[AnyEvent] = []
    wishes: list[tuple[UUID, Appointment]] = []
    unchanged = 0
    for key, each in zip(keys, received, strict=True):
        before, reply = found.get(key), each.reply
        if before is None:
            continue
        try:
            after = answer(before, reply.wish, reply.reason_code, reply.answered_at)
        except IllegalMove:
            # Cancelled, moved or begun meanwhile: the newer fact stands, and nobody is to blame. But
            # whoever cancelled in time and was heard too late did not fail to come.
            if (cancelled := _late_cancellation(before, reply)) is not None:
                data = cancelled_data(cancelled)
                late.append(event_of(reply.clinic_id, cancelled, data, cause=each.cause))
            continue
        if after.status is not before.status:
            is_confirmed = after.status is Status.CONFIRMED
            data = confirmed_data(after) if is_confirmed else cancelled_data(after)
            events.append(event_of(reply.clinic_id, after, data, cause=each.cause))
        elif after != before:
            wishes.append((reply.clinic_id, after))
        else:
            unchanged += 1
    await record(connection, events, now)
    if wishes:
        await appointments.save_move_requests(connection, wishes)
    return len(events) + len(wishes) + unchanged + await correct_guesses(connection, late, now)


def _late_cancellation(before: Appointment, reply: Reply) -> Appointment | None:
    """The cancellation that an answer before the start would have been, had the timer not come first."""
    is_guess = before.status is Status.NO_SHOW and before.marked_by == SYSTEM
    if not is_guess or reply.wish is not Answer.CANCEL:
        return None
    waiting = replace(before, status=Status.BOOKED, status_at=None, version=0, sequence=0)
    try:
        return answer(waiting, reply.wish, reply.reason_code, reply.answered_at)
    except IllegalMove:
        return None
