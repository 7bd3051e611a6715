"""How a process runs: event loop, signals, HTTP server."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import uvicorn
import uvloop
from fastapi import FastAPI


def serve_api(app: FastAPI, host: str, port: int) -> None:
    """Serves an app until SIGTERM; requests in hand are finished.

    Args:
        app: With its lifespan.
        host: To listen on.
        port: To listen on.
    """
    uvicorn.run(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=20,
        server_header=False,
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

    uvloop.run(run())
