"""What a signal does before the event loop can take it: it ends the start."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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


def ignore_signals() -> None:
    """It is stopping already: a second signal must not leave a child behind."""
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
