"""Delivery receipts: what a provider reports later of a message it took.

Receipts come late, twice, out of order, and before the answer to the call itself. A receipt proves
that the provider had the message, so it ends every doubt about the call; `delivered` stands over
`failed`, and whatever repeats what is known changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from engagement.messages import notices, queries
from engagement.messages.domain import MessageState
from engagement.tasks.usecases import close_tasks_about, open_tasks
from revisit_events.outbox import publish


class Delivery(StrEnum):
    """How a message ended at the patient's device."""

    DELIVERED = "delivered"
    FAILED = "failed"


WORDS: Mapping[str, Delivery | None] = {
    "delivered": Delivery.DELIVERED,
    "failed": Delivery.FAILED,
    "rejected": Delivery.FAILED,
    # Reports on the way: the message is where the answer to the call said.
    "accepted": None,
    "queued": None,
    "sent": None,
}
"""What a gateway may report."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a receipt makes of a message.

    Args:
        is_sent_now: Nobody knew until now that the provider had taken it.
        closes_tasks: Tasks opened because it seemed not to arrive have lost their reason.
    """

    delivery: Delivery
    is_sent_now: bool
    closes_tasks: bool


def change(state: str, calls: int, known: str | None, delivery: Delivery) -> Change | None:
    """What a receipt changes; None for a repetition and for a message that was never called.

    Args:
        state: Of the message.
        calls: Calls of a provider made for it.
        known: What an earlier receipt said.
        delivery: What this one says.
    """
    if known in {delivery, Delivery.DELIVERED}:
        return None
    if state == MessageState.DROPPED or calls == 0:
        return None
    return Change(
        delivery=delivery,
        is_sent_now=state != MessageState.SENT,
        closes_tasks=state == MessageState.UNCERTAIN or known is not None,
    )


async def take_receipt(
    connection: AsyncConnection,
    clinic_id: UUID,
    message_id: UUID,
    delivery: Delivery,
    now: datetime,
) -> bool:
    """Notes a receipt, tells others, opens and closes contact tasks; gives whether it changed anything.

    Args:
        connection: Inside a transaction of the clinic.
        clinic_id: Whose message.
        message_id: The message.
        delivery: What the provider reports.
        now: Business time.
    """
    found = await queries.lock_sent(connection, clinic_id, message_id)
    if found is None:
        return False
    changed = change(found.state, found.calls, found.delivery, delivery)
    if changed is None:
        return False
    await queries.save_delivery(connection, clinic_id, message_id, delivery, now)
    keys, channel = notices.keys_of(found), found.channel or "unknown"
    events = []
    if changed.is_sent_now:
        events.append(notices.sent(keys, found.step, channel, found.decided_at or now))
    if delivery is Delivery.DELIVERED:
        events.append(notices.delivered(keys, found.step, channel, now))
    else:
        events.append(notices.not_delivered(keys, found.step, channel, now))
    await publish(connection, events)
    if changed.closes_tasks:
        outcome = "message_delivered" if delivery is Delivery.DELIVERED else "message_failed"
        await close_tasks_about(
            connection, clinic_id, found.patient_id, message_id, outcome=outcome, now=now
        )
    if delivery is Delivery.FAILED:
        await open_tasks(connection, [notices.unreachable(keys, now)], now)
    return True
