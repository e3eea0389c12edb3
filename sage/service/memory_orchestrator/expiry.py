"""A thread that forgets what has expired. Searches never see it anyway: this is about the bytes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from sage.service.memory_orchestrator.writes import MemoryWriter

_PAUSE = 30.0
"""Seconds between two rounds."""
_log = logging.getLogger(__name__)


class ExpiryThread:
    """Sweeps the tenants that were met in this process."""

    def __init__(self, keeper: MemoryWriter, clock: Callable[[], float]) -> None:
        self._keeper = keeper
        self._clock = clock
        self._tenants: set[str] = set()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._swept = 0
        self._error: str | None = None

    def know(self, tenant: str) -> None:
        self._tenants.add(tenant)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._go_on, name="sage-memory-sweep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def state(self) -> dict[str, Any]:
        return {"forgotten": self._swept, "error": self._error}

    def _go_on(self) -> None:
        while not self._ended.wait(_PAUSE):
            try:
                self.sweep()
                self._error = None
            except Exception as exc:
                if self._error is None:
                    _log.warning("what has expired cannot be forgotten now, and is tried again: %s", exc)
                self._error = f"{type(exc).__name__}: {exc}"

    def sweep(self) -> None:
        for tenant in sorted(self._tenants):
            self._swept += self._keeper.expire(tenant)
