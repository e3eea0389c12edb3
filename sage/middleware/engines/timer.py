"""A call that waits for its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timer:
    """At most one call at a time waits; on the running event loop."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        return self._handle is not None

    def set(self, delay: float) -> None:
        """Calls in ``delay`` seconds, and not when it was set to before."""
        self.cancel()
        self._handle = asyncio.get_running_loop().call_later(delay, self._ring)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._handle = None
        self._call()
