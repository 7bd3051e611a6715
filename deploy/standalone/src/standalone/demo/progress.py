"""A progress bar with rate and time left; plain lines where no terminal is."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

WIDTH = 28
LINE_EVERY_SECONDS = 5.0
REDRAW_EVERY_SECONDS = 0.2


class Progress:
    """Shows how far a long piece of work is.

    Args:
        total: Units in all.
        unit: Their name, in the plural.
    """

    def __init__(self, total: int, unit: str) -> None:
        self._total = max(1, total)
        self._unit = unit
        self._done = 0
        self._started = time.monotonic()
        self._shown_at = 0.0
        self._is_terminal = sys.stderr.isatty()

    def add(self, units: int, note: str = "") -> None:
        """Counts units as done."""
        self._done += units
        pause = REDRAW_EVERY_SECONDS if self._is_terminal else LINE_EVERY_SECONDS
        now = time.monotonic()
        if now - self._shown_at >= pause or self._done >= self._total:
            self._shown_at = now
            self._show(note)

    def over(self, items: Iterable[T], unit_of: Callable[[T], object] = id) -> Iterator[T]:
        """Gives the items on and counts them.

        Args:
            items: Items of one unit follow one another.
            unit_of: Which unit an item belongs to; each is one of its own when left out.
        """
        last: object = None
        for item in items:
            if (unit := unit_of(item)) != last:
                last = unit
                self.add(1)
            yield item

    def _show(self, note: str) -> None:
        seconds = max(0.001, time.monotonic() - self._started)
        rate = self._done / seconds
        left = (self._total - self._done) / rate if rate else 0
        share = min(1.0, self._done / self._total)
        bar = "#" * int(share * WIDTH)
        text = (
            f"[{bar:.<{WIDTH}}] {share:4.0%}  {self._done:,} of {self._total:,} {self._unit}  "
            f"{rate:,.{0 if rate >= 10 else 1}f}/s  {_clock(left)} left  {note}"
        )
        if self._is_terminal:
            end = "\n" if self._done >= self._total else ""
            sys.stderr.write(f"\r\033[K{text}{end}")
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
