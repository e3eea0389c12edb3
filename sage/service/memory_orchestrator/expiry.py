"""A thread that removes expired memories for good. Searches never return them anyway: this frees the bytes."""

from __future__ import annotations

import logging
import threading
from typing import Any

from sage.service.memory_orchestrator.removal import MemoryRemover

_PAUSE = 30.0
"""Seconds between two rounds."""
_log = logging.getLogger(__name__)


class ExpiryThread:
    """Serves the tenants that used the service since it started."""

    def __init__(self, remover: MemoryRemover) -> None:
        self._remover = remover
        self._tenants: set[str] = set()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._removed = 0
        self._error: str | None = None

    def watch(self, tenant: str) -> None:
        self._tenants.add(tenant)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="sage-memory-expiry", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def state(self) -> dict[str, Any]:
        return {"forgotten": self._removed, "error": self._error}

    def _run(self) -> None:
        while not self._stopped.wait(_PAUSE):
            try:
                self.run_round()
                self._error = None
            except Exception as exc:
                if self._error is None:
                    _log.warning("expired memories could not be removed; the next round tries again: %s", exc)
                self._error = f"{type(exc).__name__}: {exc}"

    def run_round(self) -> None:
        for tenant in sorted(self._tenants):
            self._removed += self._remover.expire(tenant)
