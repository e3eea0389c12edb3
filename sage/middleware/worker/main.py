"""A worker: takes messages from the broker, and runs jobs in processes of its own for the gateway.

``python -m sage.middleware.worker.main`` is what the gateway starts as its child; `sage worker` is the same for people.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from sage.errors import SageError
from sage.middleware.queue.worker_options import WorkerOptions
from sage.middleware.worker.agenda import Agenda, start_beat
from sage.middleware.worker.celery_worker import PoolWorker, on_process_lost, on_process_start, stop_on_signals
from sage.middleware.worker.control import ControlConnection
from sage.middleware.worker.execution import Execution
from sage.middleware.worker.heartbeat import WorkerHeartbeat
from sage.middleware.worker.lease import StopFlag

_STOP_SECONDS = 12.0
"""How long the processes of the pool have to leave their jobs; then they are killed."""
_ITEM_CONCURRENCY = 8
_NICE = 10


class WorkerProgram:
    """One worker process with its pool."""

    def __init__(self, options: WorkerOptions) -> None:
        """Raises :class:`ConfigError` and :class:`MissingExtra`."""
        self._options = options
        self._stop = StopFlag()
        self._heartbeat = WorkerHeartbeat(options, self._heard)
        self._execution: Execution | None = None
        self._pool = PoolWorker(options, self._execute)
        self._item_concurrency = _ITEM_CONCURRENCY
        self._agenda = Agenda(ControlConnection(options.url, options.credential))
        self._beats = False

    def run(self, on_welcome: Callable[[], None] | None = None) -> int:
        """Runs until SIGTERM or Ctrl-C; waits for a gateway that does not answer yet. ``on_welcome`` is called when it
        has.

        Raises as :meth:`WorkerHeartbeat.first`.
        """
        stop_on_signals(self.stop)
        welcome = self._heartbeat.first()
        if on_welcome is not None:
            on_welcome()
        self._item_concurrency = int(welcome.get("item_concurrency") or _ITEM_CONCURRENCY)
        self._heard(welcome)
        on_process_start(self._begin_process)
        on_process_lost(self._heartbeat.report_lost)
        self._heartbeat.start()
        try:
            return self._pool.run()
        finally:
            self._heartbeat.end()

    def stop(self) -> None:
        """Takes no new jobs, leaves those that run to others, and ends the process, which kills what does not stop.

        Celery's own way to stop joins threads that sleep, which takes six seconds where messages are files.
        """
        self._stop.set()
        self._heartbeat.stop()
        self._pool.take_no_more()
        end = time.monotonic() + _STOP_SECONDS
        while not self._pool.is_idle and time.monotonic() < end:
            time.sleep(0.02)
        self._heartbeat.end()
        os._exit(0)  # the kernel kills the processes of the pool with this one

    def _heard(self, answer: dict[str, Any]) -> None:
        """What the gateway said to a heartbeat. Beat starts with the first schedule."""
        schedules = answer.get("schedules")
        if isinstance(schedules, dict):
            self._agenda.update(schedules)
        if self._agenda and not self._beats:
            self._beats = True
            start_beat(self._pool.app, self._agenda)

    def _begin_process(self) -> None:
        options = self._options
        self._execution = Execution(options.url, options.credential, options.name, self._item_concurrency, self._stop)

    def _execute(self, job_id: str, signature: str) -> None:
        assert self._execution is not None, "it is made when the process starts"
        self._execution.run(job_id, signature)


def run_worker(options: WorkerOptions, on_welcome: Callable[[], None] | None = None) -> int:
    """Runs a worker in this process, below the priority of others; returns the exit code. Raises :class:`SageError`."""
    os.nice(_NICE)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("kombu.transport.redis").setLevel(logging.ERROR)  # it repeats whatever somebody publishes
    return WorkerProgram(options).run(on_welcome)


def main() -> int:
    """The gateway's own worker."""
    try:
        return run_worker(WorkerOptions.from_environment(os.environ))
    except SageError as exc:
        print(f"sage: {exc.message}", file=sys.stderr)  # noqa: T201
        return 1


if __name__ == "__main__":
    sys.exit(main())
