"""What the relays of a process have sent, for the consumers beside them.

A broker that answers a fetch only when its time is over has to be asked many times a second, or every
event comes late; asking costs the embedded one, and the client, a millisecond each. Where relays and
consumers share a process nobody has to ask: a consumer rests until a relay has sent something for it.
"""

import asyncio
from collections.abc import Collection, Mapping

Place = tuple[str, int]
"""A topic and the number of a partition."""


class Arrivals:
    """The newest acknowledged offset of each partition, and a bell."""

    def __init__(self) -> None:
        self._last: dict[Place, int] = {}
        self._bell = asyncio.Event()

    def sent(self, last: Mapping[Place, int]) -> None:
        """Notes what the broker has acknowledged, and rings.

        Args:
            last: The last offset in each partition.
        """
        for at, offset in last.items():
            self._last[at] = max(offset, self._last.get(at, -1))
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()

    def are_applied(self, topics: Collection[str], processed: Mapping[Place, int]) -> bool:
        """Tells whether a group has applied all that was sent to its topics.

        Args:
            topics: Of the group.
            processed: The next offset of each partition that the group has read.
        """
        return all(
            processed.get(at, 0) > offset for at, offset in self._last.items() if at[0] in topics
        )

    async def next(self, stop: asyncio.Event, seconds: float) -> None:
        """Waits until something is sent, for the stop or for the timeout.

        Args:
            stop: Ends the wait.
            seconds: Longest wait.
        """
        waits = [asyncio.ensure_future(one.wait()) for one in (self._bell, stop)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
