"""How long a start may take: longer on a machine that is busy with other work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from sage.processors import contention

_LOOK = 1.0
"""Seconds after which the load is looked at again."""
_NEGLIGIBLE = 0.001
_MOST = 10.0
"""Times that a start may take longer than on an idle machine, so that one that cannot succeed still ends."""


class Patience:
    """``seconds`` of a machine with nothing else to do; beside other work, a second counts as less.

    While a processor has to serve n threads, each gets an nth of it, and one second counts as 1/n.
    """

    def __init__(self, seconds: float, load: Callable[[], float] = contention) -> None:
        """``load`` tells how many threads there are for each processor, and 1 for an idle machine."""
        self.waited = 0.0
        """Seconds since the first wait began."""
        self._left = seconds
        self._load = load

    def waits(self) -> Iterator[float]:
        """The seconds of each of the waits that follow each other, until the patience is used up; at least one."""
        began = time.monotonic()
        while True:
            load = min(max(self._load(), 1.0), _MOST)
            started = time.monotonic()
            yield min(self._left * load, _LOOK)
            now = time.monotonic()
            self.waited = now - began
            self._left -= (now - started) / load
            if self._left < _NEGLIGIBLE:
                return
