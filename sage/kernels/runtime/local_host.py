"""A service in this process: its queue, its workers, which are threads, and its event loop where it needs one."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

from sage.errors import Conflict, InvalidRequest, Unavailable
from sage.kernels.runtime.calls import Call, running, with_traceback_as_cause
from sage.kernels.runtime.hosts import ServiceSpec, State
from sage.kernels.runtime.inbox import Closed, Full, Inbox
from sage.kernels.runtime.service.base_service_task import BaseServiceTask, Method, methods_of
from sage.kernels.runtime.statistics import Tally, summed

if TYPE_CHECKING:
    from sage.kernels.runtime.callers import AsyncServiceCaller, ServiceCaller


class LocalHost:
    """Serves ``spec`` with up to ``max_workers`` threads, which are made as they are needed."""

    def __init__(self, spec: ServiceSpec) -> None:
        self.spec = spec
        self._state = State.STOPPED
        self._service: Any = None
        self._methods: dict[str, Method] = {}
        self._bound: dict[str, tuple[Callable[..., Any], bool]] = {}
        self._workers = 1
        self._inbox: Inbox[Call] = Inbox(0)
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._tallies: list[Tally] = []
        self._loop: _Loop | None = None
        self._lanes: dict[Any, deque[Call]] = {}
        self._started = False
        self._stopped = threading.Event()

    # Life

    def start(self, callers: tuple[ServiceCaller, AsyncServiceCaller]) -> None:
        with self._lock:
            if self._started:
                raise Conflict(f"the service '{self.spec.name}' was started already")
            self._started = True
        self._state = State.SETUP
        try:
            self._service = service = self.spec.make()
            self._prepare(service, callers)
            try:
                if hasattr(service, "setup"):
                    service.setup()
            except BaseException:
                self._clean_up()
                raise
        except BaseException:
            self._state = State.FAILED
            raise
        self._state = State.RUNNING

    def _prepare(self, service: Any, callers: tuple[ServiceCaller, AsyncServiceCaller]) -> None:
        name, options = self.spec.name, self.spec.options
        if isinstance(service, BaseServiceTask):
            service._callers = callers
        workers: Any = _first(options.max_workers, getattr(service, "max_workers", None), 1)
        size: Any = _first(options.queue_size, getattr(service, "queue_size", None), BaseServiceTask.queue_size)
        for word, value in (("max_workers", workers), ("queue_size", size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidRequest(f"the service '{name}' needs a whole number from 1 as {word}, not {value!r}")
        self._workers = workers
        self._inbox = Inbox(size)
        self._methods = methods_of(type(service))
        self._bound = {method: (getattr(service, method), found.is_async) for method, found in self._methods.items()}

    def stop(self, grace: float) -> None:
        with self._lock:
            if self._state in (State.STOPPED, State.FAILED):
                return
            mine = self._state is not State.STOPPING
            self._state = State.STOPPING
        if not mine:
            self._stopped.wait(grace)
            return
        end = time.monotonic() + grace
        self._inbox.close()
        self._join(end)
        for call in self._inbox.clear():
            call.abandon(self._gone())
        for tally in self._tallies:
            if (left := tally.call) is not None:
                left.abandon(self._gone())
        if self._loop is not None:
            self._loop.close()
            self._join(time.monotonic() + 1)
        self._clean_up()
        self._state = State.STOPPED
        self._stopped.set()

    def _join(self, end: float) -> None:
        for thread in list(self._threads):
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))

    def _clean_up(self) -> None:
        if hasattr(self._service, "cleanup"):
            self._service.cleanup()

    # Calls

    def methods(self) -> Mapping[str, Method]:
        return self._methods

    def submit(self, call: Call) -> None:
        try:
            woken = self._inbox.put(call)
        except Full:
            raise Unavailable(
                f"{self._inbox.limit} calls wait for the service '{self.spec.name}' and it takes no more; "
                "try again, or give it more workers (max_workers) or a longer queue (queue_size)",
                code="queue_full",
            ) from None
        except Closed:
            raise self._gone() from None
        if not woken and len(self._threads) < self._workers:
            self._add_worker()

    def _gone(self) -> Unavailable:
        return Unavailable(
            f"the service '{self.spec.name}' is {self._state}; it takes no calls", code="service_stopped"
        )

    def _add_worker(self) -> None:
        with self._lock:
            if len(self._threads) >= self._workers:
                return
            thread = threading.Thread(target=self._work, name=f"sage-{self.spec.name}", daemon=True)
            self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        bell, tally = allocate_lock(), Tally()
        bell.acquire()
        self._tallies.append(tally)
        try:
            self._serve(bell, tally)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
            if len(self._inbox):
                self._add_worker()  # it died before its time

    def _serve(self, bell: LockType, tally: Tally) -> None:
        take, run = self._inbox.take, self._run
        while (call := take(bell)) is not None:
            if call.order is None:
                run(call, tally)
            else:
                self._run_in_order(call, tally)
            del call  # nothing of it is held while the next is waited for

    def _run_in_order(self, call: Call, tally: Tally) -> None:
        """Runs it, and those of its key that came meanwhile; or leaves it to the worker that runs its key."""
        key = call.order
        with self._lock:
            if (lane := self._lanes.get(key)) is not None:
                lane.append(call)
                return
            self._lanes[key] = lane = deque((call,))
        while True:
            self._run(lane[0], tally)
            with self._lock:
                lane.popleft()
                if not lane:
                    del self._lanes[key]
                    return

    def _run(self, call: Call, tally: Tally) -> None:
        if not call.begin():
            return
        tally.call = call
        running.set(call)
        begun = time.perf_counter()
        failed = True
        try:
            method, is_async = self._bound[call.method]
            if call.many:
                result = self._many(call, method, is_async)
            elif is_async:
                result = self._on_loop(call, method(*call.args, **call.kwargs))
            else:
                result = method(*call.args, **call.kwargs)
            failed = False
        except BaseException as exc:  # also SystemExit: it ends the call, not the worker
            call.fail(with_traceback_as_cause(exc))
        else:
            call.succeed(result)
        tally.call = None
        running.set(None)
        tally.count(time.perf_counter() - begun, failed, len(call.args) or 1 if call.many else 1)

    def _many(self, call: Call, method: Callable[..., Any], is_async: bool) -> list[Any]:
        results = []
        for args in call.args:
            if call.abandoned or (call.deadline is not None and time.monotonic() >= call.deadline):
                call.expire()
                break
            result = method(*args, **call.kwargs)
            results.append(self._on_loop(call, result) if is_async else result)
        return results

    def _on_loop(self, call: Call, coroutine: Any) -> Any:
        with self._lock:
            if self._loop is None:
                self._loop = _Loop(self.spec.name)
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
                **summed(list(self._tallies) or [Tally()]),
                "queue_depth": len(self._inbox),
                "queue_size": self._inbox.limit,
                "workers": self._workers,
                "running": sum(tally.call is not None for tally in self._tallies),
            },
        }

    def _health(self) -> dict[str, Any]:
        if self._state is not State.RUNNING:
            return {"healthy": False}
        try:
            return {"healthy": True, **self._service.health()} if hasattr(self._service, "health") else {}
        except Exception as exc:
            return {"healthy": False, "error": f"{type(exc).__name__}: {exc}"}


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


class _Loop:
    """The event loop of one service's ``async`` methods, on a thread of its own."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"sage-{name}-loop", daemon=True)
        self._thread.start()

    def run(self, call: Call, coroutine: Any) -> Any:
        """The coroutine's result; a worker waits here, so that no more run at once than there are workers."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        call.on_abandon = future.cancel
        if call.abandoned:
            future.cancel()
        left = max(call.deadline - time.monotonic(), 0.0) if call.deadline is not None else None
        wait((future,), left)
        if not future.done():
            call.expire()
        return future.result()

    def close(self) -> None:
        async def end() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
