"""Celery's worker, as it runs jobs: a pool of processes, which takes no more than it can run, and no orders.

Without the extra there is no Celery, so what derives from its classes is made in functions.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from sage.errors import MissingExtra
from sage.middleware.queue.celery_app import make_celery_app
from sage.middleware.queue.messages import QUEUE_PREFIX, TASK
from sage.middleware.queue.worker_options import WorkerOptions

_log = logging.getLogger("sage.worker")
_REMOTE_COMMANDS = frozenset(
    {
        *("ping", "stats", "active", "active_queues", "registered", "scheduled", "reserved", "revoked", "conf"),
        *("report", "clock", "query_task", "hello", "enable_events", "disable_events", "heartbeat"),
        *("dump_active", "dump_reserved", "dump_schedule", "dump_tasks", "dump_revoked", "dump_conf"),
    }
)
"""What Flower asks for; none of them changes what the worker does."""
_RECONNECT = {"interval_start": 0.2, "interval_step": 0.3, "interval_max": 2.0}
"""Seconds between attempts to reach the broker; Celery's own go up to 30."""
_LOST_SECONDS = 0.5
"""How long a process that died may still be heard of; Celery's own 10 seconds would hold its place so long."""


class EagerConsumer:
    """Over Celery's consumer: back soon after the broker is, and never with a message that nobody can run yet."""

    pool: Any
    task_consumer: Any
    may_run: Callable[[int], bool]
    is_cut_off = False

    def ensure_connected(self, connection: Any) -> Any:
        """The connection, once there is one."""
        return connection.ensure_connection(self._on_error, None, **_RECONNECT)

    def on_ready(self) -> None:
        """Called when messages begin to come, also after a reconnection."""
        super().on_ready()  # type: ignore[misc]
        if self.is_cut_off:
            self.is_cut_off = False
            _log.warning("the broker is back")
        qos = self.task_consumer.channel.qos
        may_take = qos.can_consume
        qos.can_consume = lambda: type(self).may_run(self.pool.num_processes) and may_take()

    def _on_error(self, exc: BaseException, interval: float) -> None:
        if not self.is_cut_off:
            _log.warning("no connection to the broker (%s: %s); it is tried again", type(exc).__name__, exc)
        self.is_cut_off = True


class PoolWorker:
    """The controller of a Celery worker with one task, which ``execute`` does in a process of the pool."""

    def __init__(self, options: WorkerOptions, execute: Callable[[str, str], None]) -> None:
        """Raises :class:`ConfigError` and :class:`MissingExtra`."""
        self.app = app = make_celery_app(options.queue, options.data_dir)
        app.task(execute, name=TASK, ignore_result=True, shared=False)
        self._takes_more = True
        self._reserved, self._controller = _make_controller(app, options, self._may_run)

    def run(self) -> int:
        """Runs as long as the process does, or until Celery gives up; returns its exit code then."""
        self._controller.start()
        return int(self._controller.exitcode or 1)

    def take_no_more(self) -> None:
        """Leaves messages to other workers. May be called from any thread."""
        self._takes_more = False

    @property
    def is_idle(self) -> bool:
        """Whether no process of the pool is at a job."""
        return not self._reserved

    def _may_run(self, processes: int) -> bool:
        return self._takes_more and len(self._reserved) < processes


def _make_controller(app: Any, options: WorkerOptions, may_run: Callable[[int], bool]) -> tuple[Any, Any]:
    """The requests that are at work or wait for a process, and the controller."""
    try:
        from celery.app import trace
        from celery.worker import WorkController, control, state
        from celery.worker.consumer import Consumer
    except ImportError as exc:
        raise MissingExtra("a worker of jobs", "queue") from exc
    for name in set(control.Panel.data) - _REMOTE_COMMANDS:
        del control.Panel.data[name]
    consumer = type("JobConsumer", (EagerConsumer, Consumer), {"may_run": staticmethod(may_run)})
    controller = WorkController(
        app=app,
        hostname=options.name,
        pool_cls="prefork",
        concurrency=options.concurrency,
        queues=[QUEUE_PREFIX + queue for queue in options.queues],
        consumer_cls=consumer,
        loglevel="WARNING",
        worker_lost_wait=_LOST_SECONDS,
        without_mingle=True,
        without_gossip=True,
        task_events=False,
    )
    trace.setup_worker_optimizations(app, options.name)
    return state.reserved_requests, controller


def on_process_lost(report: Callable[[str], None]) -> None:
    """Has ``report`` called with the id of a job whose process died, on a thread of its own."""
    try:
        from celery import signals
        from celery.exceptions import WorkerLostError
    except ImportError as exc:
        raise MissingExtra("a worker of jobs", "queue") from exc
    own = os.getpid()

    def handle(task_id: str, exception: BaseException, **_: Any) -> None:
        if isinstance(exception, WorkerLostError) and os.getpid() == own:
            _log.warning("the process of job %s died: %s", task_id, exception)
            threading.Thread(target=report, args=(task_id,), name="sage-lost", daemon=True).start()

    signals.task_failure.connect(handle, weak=False)


def on_process_start(begin: Callable[[], None]) -> None:
    """Has ``begin`` called in each process of the pool when it starts."""
    try:
        from celery import signals
    except ImportError as exc:
        raise MissingExtra("a worker of jobs", "queue") from exc
    signals.worker_process_init.connect(lambda **_: begin(), weak=False)


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Has ``stop`` called at SIGTERM and Ctrl-C, on a thread, once."""
    begun = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if not begun.is_set():
            begun.set()
            threading.Thread(target=stop, name="sage-stop", daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)
