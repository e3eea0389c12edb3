"""Threads for work that blocks, so that the event loop never does: few of them, named, with a bounded queue.

Not the standard library's pool: that one takes nothing more once the main thread has ended, while a service that a
program has started lives on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sage.errors import Unavailable
from sage.fair_queue import FairQueue
from sage.thread_pool import fulfil

T = TypeVar("T")


class BoundedPool:
    """``workers`` threads, made as they are needed; ``waiting`` further pieces of work may wait.

    Tenants take turns, each in its order. Where there is no room, the newest piece of the tenant that has the most
    makes room for one that has fewer.
    """

    def __init__(self, name: str, workers: int, waiting: int) -> None:
        self._name = name
        self._workers = workers
        self._waiting = waiting
        self._changed = threading.Condition()
        self._queue: FairQueue[tuple[Callable[[], Any], Future[Any]]] = FairQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._running = 0
        self._closed = False

    async def run(self, work: Callable[[], T], tenant: str = "") -> T:
        """The result of ``work`` of ``tenant``. A caller that is cancelled leaves it running to its end; work that
        still waits then never begins. Raises :class:`Unavailable` when the queue is full or the pool is closed."""
        return await asyncio.wrap_future(self.submit(work, tenant))

    def submit(self, work: Callable[[], T], tenant: str = "") -> Future[T]:
        """As :meth:`run`, for callers that do not wait."""
        future: Future[T] = Future()
        refused = None
        with self._changed:
            if self._closed:
                raise Unavailable("the gateway is shutting down; try again soon", code="shutting_down")
            if self._running + len(self._queue) >= self._workers + self._waiting:
                refused = self._queue.make_room(tenant)
                if refused is None:
                    raise self._full()
            self._queue.push(tenant, (work, future))
            if len(self._queue) > self._idle and len(self._threads) < self._workers:
                name = f"sage-{self._name.replace(' ', '-')}_{len(self._threads)}"
                thread = threading.Thread(target=self._serve, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()
        if refused is not None and refused[1].set_running_or_notify_cancel():
            refused[1].set_exception(self._full())
        return future

    def _full(self) -> Unavailable:
        return Unavailable(f"too many requests wait for {self._name}; try again", code="overloaded")

    @property
    def has_begun(self) -> bool:
        """Whether it has any thread, so that :meth:`close` may have to wait."""
        return bool(self._threads)

    def close(self, timeout: float | None = None) -> None:
        """Waits for what runs, ``timeout`` seconds at most for each thread; what waits never begins."""
        with self._changed:
            self._closed = True
            waiting = self._queue.clear()
            self._changed.notify_all()
        for _, future in waiting:
            future.cancel()
        for thread in self._threads:
            thread.join(timeout)

    def _serve(self) -> None:
        while (item := self._next()) is not None:
            work, future = item
            fulfil(future, work)
            del item, work, future  # nothing of it stays in memory while the next is waited for
            with self._changed:
                self._running -= 1

    def _next(self) -> tuple[Callable[[], Any], Future[Any]] | None:
        """``None`` means that there will be nothing more."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._queue or self._closed)
            self._idle -= 1
            if not self._queue:
                return None
            self._running += 1
            return self._queue.pop()
