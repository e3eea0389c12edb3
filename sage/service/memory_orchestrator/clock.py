"""The clock of writes: it never runs backwards, whatever the system's clock does."""

from __future__ import annotations

import threading
from collections.abc import Callable

_STEP = 1e-6
"""Seconds between two writes that the system's clock does not tell apart."""


class WriteClock:
    """Times in Unix seconds. Safe to use from several threads."""

    def __init__(self, system: Callable[[], float]) -> None:
        self.system = system
        """The system's clock as it is. Memories are removed for good by this one alone."""
        self._lock = threading.Lock()
        self._last = 0.0

    def now(self) -> float:
        """Never before the last write, even if the system's clock was set back."""
        return max(self.system(), self._last)

    def next_write(self) -> float:
        """A time later than that of every write before."""
        with self._lock:
            self._last = max(self.system(), self._last + _STEP)
            return self._last
