"""A local host that also runs calls on the threads that bring them, in the place of a worker of its own that sleeps."""

from __future__ import annotations

import threading

from sage.kernels.runtime.services.calls import ServiceCall
from sage.kernels.runtime.services.local_host import LocalHost
from sage.kernels.runtime.services.spec import ServiceSpec
from sage.kernels.runtime.services.statistics import WorkerStatistics


class CallerRunsHost(LocalHost):
    """In an actor, the thread on which Ray hands over a call would only wait for a worker. It works itself, which saves
    two switches of threads. Never more calls run at once than there are workers."""

    def __init__(self, spec: ServiceSpec) -> None:
        super().__init__(spec)
        self._per_thread = threading.local()

    def run_here(self, call: ServiceCall) -> bool:
        """Runs ``call`` to its end on this thread. Returns ``False`` when no worker sleeps or others wait: the call has
        to be queued then."""
        worker = self._mailbox.borrow_worker()
        if worker is None:
            return False
        try:
            statistics = self._statistics_of_thread()
            statistics.call = call
            self._run(call, statistics)
            statistics.call = None
        finally:
            self._mailbox.return_worker(worker)
        return True

    def _statistics_of_thread(self) -> WorkerStatistics:
        statistics: WorkerStatistics | None = getattr(self._per_thread, "statistics", None)
        if statistics is None:
            statistics = self._per_thread.statistics = WorkerStatistics()
            self._statistics.append(statistics)
        return statistics
