"""A service in this process: its queue, its workers, which are threads, and its event loop where it needs one."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from _thread import LockType, allocate_lock
from collections.abc import Callable, Mapping
from sys import is_finalizing
from typing import Any

from sage.acting_for import acting_for
from sage.errors import Conflict, InvalidRequest, Unavailable
from sage.forks import forks
from sage.kernels.runtime.service.base_service_task import BaseServiceTask, methods_of
from sage.kernels.runtime.service.service_context import ServiceContext
from sage.kernels.runtime.services.callers import Callers
from sage.kernels.runtime.services.calls import ServiceCall, running, with_traceback_as_cause
from sage.kernels.runtime.services.event_loop import ServiceLoop
from sage.kernels.runtime.services.host import LifeState
from sage.kernels.runtime.services.mailbox import Closed, Full, Mailbox
from sage.kernels.runtime.services.spec import Method, ServiceSpec
from sage.kernels.runtime.services.statistics import WorkerStatistics, summed

_log = logging.getLogger(__name__)


class LocalHost:
    """Serves ``spec`` with up to ``max_workers`` threads, which are made as they are needed."""

    def __init__(self, spec: ServiceSpec) -> None:
        self.spec = spec
        self._state = LifeState.STOPPED
        self._service: Any = None
        self._methods: dict[str, Method] = {}
        self._bound: dict[str, tuple[Callable[..., Any], bool]] = {}
        self._workers = 1
        self._mailbox: Mailbox[ServiceCall] = Mailbox(0)
        self._lock = threading.RLock()  # not Lock: the garbage collector may run a __del__ that calls a service
        self._threads: set[threading.Thread] = set()
        self._statistics: list[WorkerStatistics] = []
        self._loop: ServiceLoop | None = None
        self._started = False
        self._grace_is_over = False
        """Calls that would begin now are refused."""
        self._forks = forks.count
        self._stopped = threading.Event()

    # Life

    def start(self, callers: Callers) -> None:
        with self._lock:
            if self._started:
                raise Conflict(f"the service '{self.spec.name}' was started already")
            self._started = True
        self._state = LifeState.SETUP
        try:
            self._service = service = self.spec.make()
            self._prepare(service, callers)
            try:
                _call_first(service, "setup", "start_running")
            except BaseException:
                self._clean_up_after_failure()
                raise
        except BaseException:
            self._state = LifeState.FAILED
            raise
        self._state = LifeState.RUNNING

    def _prepare(self, service: Any, callers: Callers) -> None:
        options = self.spec.options
        if isinstance(service, BaseServiceTask):
            service._callers = callers
            service._counts = lambda: summed(list(self._statistics))
        if isinstance(context := getattr(service, "_context", None), ServiceContext):
            context._callers = callers
        workers: Any = _first(options.max_workers, getattr(service, "max_workers", None), 1)
        size: Any = _first(options.queue_size, getattr(service, "queue_size", None), BaseServiceTask.queue_size)
        for option, value in (("max_workers", workers), ("queue_size", size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidRequest(
                    f"the service '{self.spec.name}' needs a whole number from 1 as {option}, not {value!r}"
                )
        self._workers = workers
        self._mailbox = Mailbox(size)
        self._methods = methods_of(type(service))
        self._bound = {name: (getattr(service, name), method.is_async) for name, method in self._methods.items()}

    def stop(self, grace: float) -> None:
        with self._lock:
            if self._state in (LifeState.STOPPED, LifeState.FAILED):
                return
            stops_elsewhere = self._state is LifeState.STOPPING
            self._state = LifeState.STOPPING
        if stops_elsewhere:
            self._stopped.wait(grace)
            return
        try:
            if self._forks == forks.count:  # else all this belongs to the parent process
                self._end_calls(time.monotonic() + grace)
                self._clean_up()
        finally:
            self._state = LifeState.STOPPED
            self._stopped.set()

    def _end_calls(self, end: float) -> None:
        """Lets the calls end until ``end``, and fails the rest."""
        self._mailbox.close()
        self._join(end)
        self._grace_is_over = True
        for call in self._mailbox.clear():
            call.abandon(self._not_running())
        for statistics in self._statistics:
            if (running_call := statistics.call) is not None:
                running_call.abandon(self._not_running())
        with self._lock:
            loop = self._loop
        if loop is not None:
            loop.close()
            self._join(time.monotonic() + 1)

    def _join(self, end: float) -> None:
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))

    def _clean_up(self) -> None:
        _call_first(self._service, "cleanup", "terminate")

    def _clean_up_after_failure(self) -> None:
        try:
            self._clean_up()
        except Exception:  # the error of the setup is raised
            _log.exception("the service '%s' failed to clean up", self.spec.name)

    # Calls

    def methods(self) -> Mapping[str, Method]:
        return self._methods

    @property
    def queue_size(self) -> int:
        """Calls that may wait."""
        return self._mailbox.limit

    def submit(self, call: ServiceCall) -> None:
        if self._forks != forks.count or is_finalizing():
            raise self._unreachable()
        try:
            has_worker = self._put(call)
        except Closed:
            raise self._not_running() from None
        if not has_worker and len(self._threads) < self._workers:
            self._add_worker()

    def _put(self, call: ServiceCall) -> bool:
        """Puts ``call`` into the mailbox, if need be in the place of the newest of the tenant that has the most there.

        Raises :class:`Unavailable` when there is no place, and as :meth:`Mailbox.put` does.
        """
        tenant = _tenant(call)
        for _ in range(2):
            try:
                return self._mailbox.put(call, call.order, tenant)
            except Full:
                pass
            removed = self._mailbox.make_room(tenant, lambda queued: queued.order is None)
            if removed is None:
                break
            removed.fail(self._queue_full())
        raise self._queue_full()

    def _queue_full(self) -> Unavailable:
        return Unavailable(
            f"{self._mailbox.limit} calls wait for the service '{self.spec.name}' and it takes no more; "
            "try again, or give it more workers (max_workers) or a longer queue (queue_size)",
            code="queue_full",
        )

    def _unreachable(self) -> Unavailable:
        """Its threads do not exist in this process, or not any more: a call would hang."""
        if is_finalizing():
            return Unavailable(f"the service '{self.spec.name}' ended with the interpreter", code="service_stopped")
        return Unavailable(
            f"the service '{self.spec.name}' runs in the process from which this one was forked; make an environment "
            "in this process, or start it by 'spawn'",
            code="service_stopped",
            retry_after=None,
        )

    def _not_running(self) -> Unavailable:
        return Unavailable(
            f"the service '{self.spec.name}' is {self._state}; it takes no calls", code="service_stopped"
        )

    def _add_worker(self) -> None:
        with self._lock:
            if len(self._threads) >= self._workers:
                return
            thread = threading.Thread(target=self._work, name=f"sage-{self.spec.name}", daemon=True)
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as exc:  # no further thread can be made
            with self._lock:
                self._threads.discard(thread)
                has_none = not self._threads
            if has_none:
                self._fail_all(exc)

    def _fail_all(self, cause: BaseException) -> None:
        error = Unavailable(f"no worker can be made for the service '{self.spec.name}': {cause}", code="no_worker")
        error.__cause__ = cause
        for call in self._mailbox.clear():
            call.fail(error)

    def _work(self) -> None:
        wakeup, statistics = allocate_lock(), WorkerStatistics()
        wakeup.acquire()
        self._statistics.append(statistics)
        try:
            self._serve(wakeup, statistics)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
            call, statistics.call = statistics.call, None
            self._mailbox.remove_worker(wakeup, call.order if call is not None else None)
            if call is not None:
                call.fail(Unavailable(f"the worker of the service '{self.spec.name}' died", code="worker_died"))
            if self._mailbox.has_next:
                self._add_worker()  # in the place of this one, which died

    def _serve(self, wakeup: LockType, statistics: WorkerStatistics) -> None:
        take, run = self._mailbox.take, self._run
        while (call := take(wakeup)) is not None:
            statistics.call = call
            run(call, statistics)
            while call.order is not None:  # the others with its ordered key
                next_call = self._mailbox.take_next_of(call.order, _tenant(call))
                if next_call is None:
                    break
                statistics.call = call = next_call
                run(call, statistics)
            statistics.call = None
            del call  # else its arguments would live until the next call

    def _run(self, call: ServiceCall, statistics: WorkerStatistics) -> None:
        if not call.begin():
            return
        running.set(call)
        acting_for.set(call.acting_for)
        begun = time.perf_counter()
        failed = True
        try:
            if self._grace_is_over:
                raise self._not_running()
            method, is_async = self._bound[call.method]
            if call.is_batch:
                result = self._run_batch(call, method, is_async)
            elif is_async:
                result = self._on_loop(call, method(*call.args, **call.kwargs))
            else:
                result = method(*call.args, **call.kwargs)
            failed = False
        except BaseException as exc:  # also SystemExit: it ends the call, not the worker
            call.fail(with_traceback_as_cause(exc))
        else:
            call.succeed(result)
        running.set(None)
        acting_for.set(None)
        statistics.count(time.perf_counter() - begun, failed, len(call.args) or 1 if call.is_batch else 1)

    def _run_batch(self, call: ServiceCall, method: Callable[..., Any], is_async: bool) -> list[Any]:
        results = []
        deadline, clock = call.deadline, time.monotonic  # a call of has_timed_out for each costs a quarter of the rate
        for args in call.args:
            if call.abandoned or (deadline is not None and clock() >= deadline):
                call.expire()
                break
            result = method(*args, **call.kwargs)
            results.append(self._on_loop(call, result) if is_async else result)
        return results

    def _on_loop(self, call: ServiceCall, coroutine: Any) -> Any:
        with self._lock:
            if self._grace_is_over:
                coroutine.close()
                raise self._not_running()
            if self._loop is None:
                self._loop = ServiceLoop(self.spec.name)
        return self._loop.run(call, coroutine)

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.spec.name,
            "class": type(self._service).__name__ if self._service is not None else None,
            "host": f"{socket.gethostname()}:{os.getpid()}",
            "state": self._state.value,
            "replicas": 1,
            "methods": sorted(self._methods),
            "health": self._health(),
            "statistics": {
                **summed(list(self._statistics)),
                "queue_depth": len(self._mailbox),
                "queue_size": self._mailbox.limit,
                "workers": self._workers,
                "running": sum(worker.call is not None for worker in list(self._statistics)),
            },
        }

    def _health(self) -> dict[str, Any]:
        if self._state is not LifeState.RUNNING:
            return {"healthy": False}
        try:
            return {"healthy": True, **self._service.health()} if hasattr(self._service, "health") else {}
        except Exception as exc:
            return {"healthy": False, "error": f"{type(exc).__name__}: {exc}"}


def _call_first(service: Any, name: str, upstream_name: str) -> None:
    """Calls the method ``name``, or the one that upstream SAGE's services have in its place, if there is one."""
    method = getattr(service, name, None) or getattr(service, upstream_name, None)
    if callable(method):
        method()


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _tenant(call: ServiceCall) -> str | None:
    """Whose call it is, where its method is told so; tenants take turns."""
    tenant = call.kwargs.get("tenant") if call.kwargs else None
    return tenant if isinstance(tenant, str) else None
