"""How a process runs: event loop, signals, HTTP server."""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

YOUNG_OBJECTS = 50_000
"""Objects made between two collections; the interpreter's 700 cost a tenth of a busy API's time."""
LARGEST_HELD = 64 * 1024
"""A longer piece is not copied to save a write."""


def settle_memory() -> None:
    """Takes what the imports made out of the collector's sight, and lets it look less often.

    A batch of events makes thousands of objects that reference counting frees by itself.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)


class Http(HttpToolsProtocol):
    """HTTP whose short answers are one write: uvicorn hands over their head and their body one by one."""

    transport: "_Gathering"  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called with a new connection."""
        super().connection_made(_Gathering(transport))  # type: ignore[arg-type]

    def eof_received(self) -> None:
        """Called when the client sends no more: the loop closes its own transport after this."""
        self.transport.let_go()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection is gone."""
        self.transport.forget()
        super().connection_lost(exc)


class _Gathering:
    """A transport that holds one write back, for the next one or until all that is ready has run.

    It knows of `write` and `close` what uvicorn calls; everything else is the transport's own.
    """

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._held = b""
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        if len(data) > LARGEST_HELD:
            self.let_go()
            self._transport.write(data)
        elif self._held:
            self._transport.write(self._held + data)
            self._held = b""
        elif data:
            self._held = data
            self._loop.call_soon(self.let_go)

    def close(self) -> None:
        self.let_go()
        self._transport.close()

    def let_go(self) -> None:
        if self._held:
            self._transport.write(self._held)
            self._held = b""

    def forget(self) -> None:
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def serve_api(app: FastAPI, host: str, port: int) -> None:
    """Serves an app until SIGTERM; requests in hand are finished.

    Args:
        app: With its lifespan.
        host: To listen on.
        port: To listen on.
    """
    settle_memory()
    uvicorn.run(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=Http,
        access_log=False,
        # uvicorn's own set-up would print errors past ours, unredacted.
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=20,
        server_header=False,
        # Nothing here asks for the client's address.
        proxy_headers=False,
    )


def run_until_signal(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs until the work ends; SIGTERM and SIGINT set the event that asks it to.

    Args:
        work: Gets the event.
    """

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await work(stop)

    settle_memory()
    uvloop.run(run())
