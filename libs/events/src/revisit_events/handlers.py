"""A service's inputs: a function for each event type that it consumes."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_events.contracts import EventData
from revisit_events.envelope import AnyEvent

E = TypeVar("E")
Handler = Callable[[AsyncConnection, Sequence[E], datetime], Awaitable[None]]
"""Applies new events of one type, in the transaction given: set-based, in any order, once."""

Handlers = Mapping[type[EventData], Handler[Any]]


async def handle(
    connection: AsyncConnection,
    handlers: Handlers,
    order: Sequence[type[EventData]],
    events: Sequence[AnyEvent],
    now: datetime,
) -> None:
    """Gives claimed events to their handlers, type by type.

    Args:
        connection: In their transaction.
        handlers: By contract.
        order: Of the contracts.
        events: Claimed.
        now: Business time.
    """
    by_contract: dict[type[EventData], list[AnyEvent]] = {}
    for event in events:
        by_contract.setdefault(type(event.data), []).append(event)
    for contract in order:
        if batch := by_contract.get(contract):
            await handlers[contract](connection, batch, now)
