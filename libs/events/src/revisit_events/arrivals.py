"""What the relays of a process have sent, for the consumers beside them.

A broker that answers a fetch only when its time is over has to be asked many times a second, or every
event comes late; asking costs the embedded one, and the client, a millisecond each. Where relays and
consumers share a process nobody has to ask: a consumer rests until a relay has sent something for it.
"""

import asyncio
from collections.abc import Mapping, Sequence

from revisit_events.feed import Partition

REST_SECONDS = 1.0
"""Longest rest: others may send to the broker as well."""


class Arrivals:
    """The newest acknowledged offset of each partition, and a bell.

    Args:
        acknowledged: The last offsets of each relay, as it keeps them itself: one that notices another log
            forgets those of the old one.
        rest_seconds: Longest wait for the bell.
    """

    def __init__(
        self, acknowledged: Sequence[Mapping[Partition, int]], rest_seconds: float = REST_SECONDS
    ) -> None:
        self._acknowledged = acknowledged
        self._rest_seconds = rest_seconds
        self._bell = asyncio.Event()

    def newest(self) -> dict[Partition, int]:
        """Gives the last offset in each partition, of any relay."""
        found: dict[Partition, int] = {}
        for offsets in self._acknowledged:
            for at, offset in offsets.items():
                found[at] = max(offset, found.get(at, -1))
        return found

    def ring(self) -> None:
        """Wakes whoever rests: something was sent."""
        bell, self._bell = self._bell, asyncio.Event()
        bell.set()

    async def next(self, stop: asyncio.Event) -> None:
        """Waits until something is sent, for the stop or for the longest rest.

        Args:
            stop: Ends the wait.
        """
        waits = [asyncio.ensure_future(one.wait()) for one in (self._bell, stop)]
        try:
            await asyncio.wait(
                waits, timeout=self._rest_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for one in waits:
                one.cancel()
