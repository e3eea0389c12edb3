"""A call at a later time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Timer:
    """Calls once when its time has come, on the running event loop. At most one call is pending."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        return self._handle is not None

    def set(self, delay: float) -> None:
        """Calls in ``delay`` seconds; an earlier setting no longer counts."""
        self.cancel()
        self._handle = asyncio.get_running_loop().call_later(delay, self._fire)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        self._call()
