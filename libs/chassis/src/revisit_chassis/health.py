"""Liveness and readiness, and the small page on which a worker shows them.

`python -m revisit_chassis.health /health/ready` asks the page on port HEALTH_PORT: the health check of
a container without curl.
"""

import asyncio
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from revisit_chassis.db import Database
from revisit_chassis.metrics import metrics_page

CHECK_TIMEOUT_SECONDS = 3

Check = Callable[[], Awaitable[str | None]]
"""Gives what is wrong, or None."""


def database_check(database: Database) -> Check:
    """Gives a check that a database answers.

    Args:
        database: Asked with one statement; opening a transaction alone sends none.
    """

    async def check() -> str | None:
        async with database.single() as connection:
            await connection.exec_driver_sql("SELECT 1")
        return None

    return check


async def failures(checks: Mapping[str, Check]) -> dict[str, str]:
    """Runs checks; gives what is wrong by name.

    Args:
        checks: By name.
    """
    wrong = {}
    for name, check in checks.items():
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                text = await check()
        except Exception as error:  # noqa: BLE001  (whatever it is, the answer is "not ready")
            text = type(error).__name__
        if text is not None:
            wrong[name] = text
    return wrong


def health_routes(checks: Mapping[str, Check]) -> list[Route]:
    """Gives the routes /health/live, /health/ready and /metrics.

    Args:
        checks: Of readiness.
    """

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(_: Request) -> Response:
        wrong = await failures(checks)
        if wrong:
            return JSONResponse({"status": "not ready", "failures": wrong}, status_code=503)
        return JSONResponse({"status": "ready"})

    return [
        Route("/health/live", live),
        Route("/health/ready", ready),
        Route("/metrics", metrics_page),
    ]


async def serve_health(
    checks: Mapping[str, Check], port: int, stop: asyncio.Event, host: str = "127.0.0.1"
) -> None:
    """Serves a worker's health page until told to stop.

    Args:
        checks: Of readiness.
        port: To listen on.
        stop: Ends it.
        host: To listen on.
    """
    app = Starlette(routes=health_routes(checks))
    server = QuietServer(
        uvicorn.Config(
            app, host=host, port=port, log_config=None, log_level="error", access_log=False
        )
    )
    serving = asyncio.create_task(server.serve())
    await stop.wait()
    server.should_exit = True
    await serving


class QuietServer(uvicorn.Server):
    """uvicorn without signal handlers: the process that runs it has its own."""

    def install_signal_handlers(self) -> None:
        """Installs none."""

    def capture_signals(self):  # type: ignore[no-untyped-def]  # as in uvicorn
        """Captures none."""
        from contextlib import nullcontext  # noqa: PLC0415

        return nullcontext()


def main(path: str) -> int:
    """Asks the health page; gives 0 when it answers 200."""
    url = f"http://127.0.0.1:{os.environ['HEALTH_PORT']}{path}"
    try:
        with urllib.request.urlopen(url, timeout=CHECK_TIMEOUT_SECONDS):
            return 0
    except (urllib.error.URLError, OSError):
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
