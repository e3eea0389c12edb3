"""A local host that also runs calls on the threads of others, in the place of a worker of its own that sleeps."""

from __future__ import annotations

import threading

from sage.kernels.runtime.services.calls import ServiceCall
from sage.kernels.runtime.services.local_host import LocalHost
from sage.kernels.runtime.services.spec import ServiceSpec
from sage.kernels.runtime.services.statistics import WorkerStatistics


class CallerRunsHost(LocalHost):
    """In an actor, the thread that Ray hands a call over on would only wait for a worker: it works itself, which spares
    two switches of threads. Never more calls run at once than there are workers."""

    def __init__(self, spec: ServiceSpec) -> None:
        super().__init__(spec)
        self._own = threading.local()

    def run_here(self, call: ServiceCall) -> bool:
        """Runs ``call`` to its end on this thread; false: nobody sleeps or others wait, so it has to stand in line."""
        inbox = self._inbox
        with inbox._mutex:
            if inbox._items or inbox._closed or not inbox._idle:
                return False
            bell = inbox._idle.pop()  # that worker sleeps on
        try:
            tally = getattr(self._own, "tally", None)
            if tally is None:
                tally = self._own.tally = WorkerStatistics()
                self._tallies.append(tally)
            tally.call = call
            self._run(call, tally)
            tally.call = None
        finally:
            with inbox._mutex:
                wake = bool(inbox._items) or inbox._closed
                if not wake:
                    inbox._idle.append(bell)
            if wake:
                bell.release()
        return True
