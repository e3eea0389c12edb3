"""The sink of dead letters: a function that takes the records which stages could not process."""

from __future__ import annotations

import threading

from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.streams.error_policy import DeadLetter
from sage.kernels.runtime.streams.shared_instances import SharedInstances
from sage.kernels.runtime.streams.stage_function import StageFunction
from sage.kernels.runtime.streams.workers import Failure, LocalWorker


class DeadLetterSink:
    """Passes dead letters of all tasks of a job to one function, one at a time."""

    def __init__(self, function: StageFunction, shared: SharedInstances) -> None:
        self._worker = LocalWorker(function, shared)
        self._lock = threading.Lock()

    def start(self, callers: Callers) -> None:
        self._worker.start(callers)

    def put(self, letter: DeadLetter) -> None:
        """Raises what the function raises."""
        with self._lock:
            outcome = self._worker.process([letter])[0]
        if isinstance(outcome, Failure):
            outcome.error.add_note(
                f"raised by the sink of dead letters of '{letter.stage}', which got {letter.error!r}"
            )
            raise outcome.error

    def stop(self) -> None:
        self._worker.stop()
