"""A thread pool that takes work also after the main thread has ended.

The standard library's pools refuse work from then on, while a service that a program has started lives on.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ThreadPool(ThreadPoolExecutor):
    """At most ``max_workers`` threads, made as they are needed. They do not keep the program alive: who needs the end
    of their work waits for it."""

    def __init__(self, max_workers: int, name: str) -> None:
        super().__init__(max_workers, name)
        self._work = _Work(max_workers, name)
        weakref.finalize(self, self._work.close).atexit = False  # a pool that nobody holds any more ends its threads

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Raises ``RuntimeError`` after :meth:`shutdown`."""
        future: Future[T] = Future()
        self._work.add(future, partial(fn, *args, **kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more work; what waits is done still, unless ``cancel_futures``."""
        self._work.close()
        if cancel_futures:
            self._work.cancel()
        if wait:
            self._work.join()


class _Work:
    """What waits to be done, and the threads that do it. They hold no reference to their pool."""

    def __init__(self, max_workers: int, name: str) -> None:
        self._max_workers = max_workers
        self._name = name
        self._changed = threading.Condition(threading.RLock())  # a pool may be collected while this thread holds it
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._is_closed = False

    def add(self, future: Future[Any], work: Callable[[], Any]) -> None:
        with self._changed:
            if self._is_closed:
                raise RuntimeError(f"the threads '{self._name}' have ended")
            self._waiting.append((future, work))
            if len(self._waiting) > self._idle and len(self._threads) < self._max_workers:
                name = f"{self._name}_{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        with self._changed:
            waiting = list(self._waiting)
            self._waiting.clear()
        for future, _ in waiting:
            future.cancel()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (item := self._next()) is not None:
            fulfil(*item)
            del item  # nothing of it stays in memory while the next is waited for

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """``None`` means that there will be nothing more."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            self._idle -= 1
            return self._waiting.popleft() if self._waiting else None


def fulfil(future: Future[Any], work: Callable[[], Any]) -> None:
    """Does ``work``, unless ``future`` was cancelled, and gives it what comes of it."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as exc:
        future.set_exception(exc)
    else:
        future.set_result(result)
    finally:
        del work, future  # the error's traceback holds this frame: with them in it, a cycle that keeps a large body
