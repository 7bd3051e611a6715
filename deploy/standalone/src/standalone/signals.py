"""What a signal does: before there is an event loop it ends the start; then it cancels what runs there."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

STOP = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """Somebody asked for the end; no error."""


@contextmanager
def signals_stop_the_start() -> Iterator[None]:
    """Turns SIGTERM and SIGINT into `Stopped` until the event loop puts its own handlers there."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise Stopped

    for number in STOP:
        signal.signal(number, stop)
    yield


def run_until_stopped(work: Coroutine[Any, Any, T]) -> T:
    """Runs in an event loop what a signal cancels; thrown into the midst of it, `Stopped` gets lost there.

    Args:
        work: Its outcome is given back.

    Raises:
        Stopped: A signal came.
    """
    before = [signal.getsignal(number) for number in STOP]

    async def run() -> T:
        task = asyncio.ensure_future(work)
        for number in STOP:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            raise Stopped from None

    try:
        return asyncio.run(run())
    finally:
        for number, handler in zip(STOP, before, strict=True):
            signal.signal(number, handler)


def ignore_signals() -> None:
    """It is stopping already: a second signal must not leave a child behind."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
