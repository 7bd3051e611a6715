"""A TCP proxy between the services and PostgreSQL or the broker: the network that can fail.

`hold` keeps bytes back until it ends, as a short split does under TCP's own repeats. `cut` closes
everything and lets nobody in. `half_open` is the long split: a connection that lived through it is dead
for good and nobody is told, until the other side's keepalive gives up. `swallow_replies` takes what
comes back from the server, so the client never learns that it was heard. `slice` brings bytes late and
in small pieces.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum

CHUNK = 65_536
SLICE = 37
"""Bytes at a time of a sliced stream; no frame of either protocol ends there."""
DELAY_SECONDS = 0.002
KEEPALIVE_SECONDS = 3.0
"""After which a server ends a session whose client does not answer any more. Sessions of the platform
ask for 25 s (`test_proxy.py`); a proxy on the same machine answers keepalives all the same."""


class Weather(StrEnum):
    """What the network does."""

    FAIR = "fair"
    HOLD = "hold"
    CUT = "cut"
    HALF_OPEN = "half_open"
    SWALLOW_REPLIES = "swallow_replies"
    SLICE = "slice"


@dataclass(eq=False, slots=True)
class _Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    is_dead: bool = False
    tasks: list["asyncio.Task[None]"] = field(default_factory=list)

    def abort(self) -> None:
        for writer in (self.client, self.server):
            if writer is not None:
                writer.transport.abort()


class Proxy:
    """Listens on a port of its own and passes on to another one.

    Args:
        port: Where clients come; free.
        target_port: Where the server listens; may change with a restart.
    """

    def __init__(self, port: int, target_port: int = 0) -> None:
        self.port = port
        self.target_port = target_port
        self._weather = Weather.FAIR
        self._fair = asyncio.Event()
        self._fair.set()
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Closes everything."""
        if self._server is not None:
            self._server.close()
        for link in [*self._links]:
            link.abort()

    @contextlib.asynccontextmanager
    async def weather(self, weather: Weather) -> AsyncIterator[None]:
        """Bad weather for a while."""
        self._weather = weather
        self._fair.clear()
        if weather is Weather.CUT:
            self._abort(self._links)
        if weather is Weather.HALF_OPEN:
            for link in self._links:
                link.is_dead = True
        try:
            yield
        finally:
            if weather is Weather.SWALLOW_REPLIES:
                # Bytes are missing in every stream: none of them can go on.
                self._abort(self._links)
            self._weather = Weather.FAIR
            self._fair.set()

    @staticmethod
    def _abort(links: set[_Link]) -> None:
        for link in [*links]:
            link.abort()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        link = _Link(client)
        self._links.add(link)
        try:
            if self._weather is Weather.CUT:
                return
            link.is_dead = self._weather is Weather.HALF_OPEN
            await self._pass_on(link, reader)
        except OSError:
            pass
        finally:
            if link.is_dead:
                # Nobody told the server that its client has gone; its keepalive finds out. At the end of
                # the set asyncio would print a cancelled connection as a fault.
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(KEEPALIVE_SECONDS)
            self._links.discard(link)
            link.abort()

    async def _pass_on(self, link: _Link, reader: asyncio.StreamReader) -> None:
        if link.is_dead:
            await self._drain(reader)
            return
        answers, link.server = await asyncio.open_connection("127.0.0.1", self.target_port)
        ways = [
            asyncio.create_task(self._copy(link, reader, link.server, is_reply=False)),
            asyncio.create_task(self._copy(link, answers, link.client, is_reply=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    @staticmethod
    async def _drain(reader: asyncio.StreamReader) -> None:
        while await reader.read(CHUNK):
            pass

    async def _copy(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_reply: bool,
    ) -> None:
        while data := await reader.read(CHUNK):
            if self._weather is Weather.HOLD:
                await self._fair.wait()
            if link.is_dead or (is_reply and self._weather is Weather.SWALLOW_REPLIES):
                continue
            if self._weather is Weather.SLICE:
                await self._slices(writer, data)
                continue
            writer.write(data)
            await writer.drain()
        if link.is_dead and is_reply:
            # The server closed; the client never hears of it.
            await asyncio.Event().wait()

    async def _slices(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        for start in range(0, len(data), SLICE):
            writer.write(data[start : start + SLICE])
            await writer.drain()
            if random.random() < 0.2 and self._weather is Weather.SLICE:
                await asyncio.sleep(DELAY_SECONDS)
