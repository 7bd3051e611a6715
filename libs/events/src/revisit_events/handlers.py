"""A service's inputs: a function for each event type that it consumes."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from revisit_events.contracts import EventData
from revisit_events.envelope import AnyEvent

E = TypeVar("E")
Handler = Callable[[AsyncConnection, Sequence[E], datetime], Awaitable[None]]
"""Applies new events of one type, in the transaction given: set-based, in any order, once."""


@dataclass(frozen=True, slots=True)
class Guessing(Generic[E]):
    """A handler that does the same for less where nothing that its events speak of is there yet.

    Args:
        usual: The handler.
        of_new: Handles events on that guess; `UniqueViolationError` where it was wrong.
    """

    usual: Handler[E]
    of_new: Handler[E]

    async def __call__(
        self, connection: AsyncConnection, events: Sequence[E], now: datetime
    ) -> None:
        """Handles events in the usual way."""
        await self.usual(connection, events, now)


Handlers = Mapping[type[EventData], Handler[Any]]


async def handle(
    connection: AsyncConnection,
    handlers: Handlers,
    order: Sequence[type[EventData]],
    events: Sequence[AnyEvent],
    now: datetime,
    *,
    are_new: bool = False,
) -> None:
    """Gives claimed events to their handlers, type by type.

    Args:
        connection: In their transaction.
        handlers: By contract.
        order: Of the contracts.
        events: Claimed.
        now: Business time.
        are_new: Whether to guess that what they speak of is new as well.
    """
    by_contract: dict[type[EventData], list[AnyEvent]] = {}
    for event in events:
        by_contract.setdefault(type(event.data), []).append(event)
    for contract in order:
        if batch := by_contract.get(contract):
            handler = handlers[contract]
            if are_new and isinstance(handler, Guessing):
                handler = handler.of_new
            await handler(connection, batch, now)
