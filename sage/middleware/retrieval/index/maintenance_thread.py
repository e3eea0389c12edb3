"""The thread that runs a collection's index maintenance while there is any to do."""

from __future__ import annotations

import logging
import threading
import time

from sage.middleware.retrieval.index.maintenance import LEASE_SECONDS, IndexMaintenance
from sage.middleware.retrieval.index.merge_policy import SEGMENT_FROM
from sage.middleware.retrieval.index.rebuild import Abandoned

_log = logging.getLogger(__name__)
_SLOW_FROM = 3  # times the rows of a new segment, in memory only
_LONGEST_DELAY = 0.1  # seconds, of one commit
_LONGEST_PAUSE = 60.0  # seconds, after errors


class MaintenanceThread:
    """Starts a thread when there is work, and ends it when there is none. After an error it tries again, later each
    time."""

    IDLE_SECONDS = 2.0
    """Without a write for so long, the collection counts as idle."""

    def __init__(self, maintenance: IndexMaintenance, name: str) -> None:
        self._maintenance = maintenance
        self._name = name
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._urgent = False
        self._last_write = time.monotonic()
        self.error: str | None = None
        """What the last job failed with; ``None`` means that it did not fail."""

    def notice_write(self) -> None:
        """Wakes the thread if a commit has made work. Called after each commit: cheap."""
        self._last_write = time.monotonic()
        self._slow_down()
        urgent = self._maintenance.has_urgent_work()
        if not urgent and (self._thread is not None or not self._maintenance.has_work(idle=True)):
            return
        self.wake(urgent=urgent)

    def _slow_down(self) -> None:
        """Keeps writers waiting for a moment that are faster than merging, longer the further ahead they are: what is
        in memory only has to be read again after a crash."""
        ahead = self._maintenance.pending / (_SLOW_FROM * SEGMENT_FROM) - 1
        if ahead > 0 and self._thread is not None and self.error is None:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, min(_LONGEST_DELAY, ahead * _LONGEST_DELAY))

    def wake(self, *, urgent: bool = True) -> None:
        with self._changed:
            if self._stopped:
                return
            self._urgent = self._urgent or urgent
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"index of {self._name}", daemon=True)
                self._thread.start()
            elif urgent:
                self._changed.notify()

    def stop(self) -> None:
        """Returns when the thread has ended. The maintenance is closing from now on."""
        with self._changed:
            self._stopped = True
            self._maintenance.closing.set()
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        failures = 0
        while self._wait_for_work():
            try:
                done = self._maintenance.step(idle=self._is_idle())
                failures, self.error = 0, None
            except Abandoned:
                done = True
            except Exception as exc:
                failures += 1
                self.error = f"{type(exc).__name__}: {exc}"
                _log.warning("collection '%s': maintenance of its index failed: %s", self._name, self.error)
                self._pause(min(_LONGEST_PAUSE, 2.0 ** (failures - 1)))
                continue
            if done is None:
                self._pause(LEASE_SECONDS)

    def _is_idle(self) -> bool:
        return time.monotonic() - self._last_write >= self.IDLE_SECONDS

    def _wait_for_work(self) -> bool:
        """``False`` means that the thread ends: it was stopped, or there is nothing left to do."""
        with self._changed:
            while not self._stopped:
                if self._urgent or self._maintenance.has_work(idle=self._is_idle()):
                    self._urgent = False
                    return True
                if not self._maintenance.has_work(idle=True):
                    self._thread = None
                    return False
                self._changed.wait(max(0.05, self._last_write + self.IDLE_SECONDS - time.monotonic()))
            return False

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, seconds)
