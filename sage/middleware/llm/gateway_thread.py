"""A gateway that runs on the event loop of a thread of its own, and does the work of other threads and loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from typing import Any, TypeVar

from sage.errors import InvalidRequest, Unavailable
from sage.middleware.gateway.gateway import Gateway
from sage.thread_pool import ThreadPool

T = TypeVar("T")
_MOST_THREADS = 8
"""For what the gateway does in ``asyncio.to_thread``."""


class GatewayThread:
    """``gateway`` on its event loop, until :meth:`close`. Safe to call from any thread, whether an event loop runs on
    it or not."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self._loop = gateway.loop = _new_loop()
        self._loop.set_default_executor(ThreadPool(_MOST_THREADS, "sage-gateway-work"))
        self._tasks: set[asyncio.Task[Any]] = set()  # used on the loop only
        self._lock = threading.RLock()  # a signal handler may close what its thread submits work to
        """Guards the next one: no work may be submitted after the loop was told to close."""
        self._closing: Future[None] | None = None
        # A daemon, since what keeps the program alive is decided in `program_end`.
        self._thread = threading.Thread(target=self._run, name="sage-gateway", daemon=True)
        self._thread.start()
        if gateway.ledger is not None:
            gateway.ledger.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts ``work`` on the loop. Raises :class:`Unavailable` after :meth:`close`."""
        with self._lock:
            if self._closing is not None:
                work.close()
                raise _stopped()
            return asyncio.run_coroutine_threadsafe(self._tracked(work), self._loop)

    def result(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``; blocks, also an event loop that runs on the calling thread."""
        if _loop_of_this_thread() is self._loop:
            work.close()
            raise InvalidRequest("a blocking call on the gateway's own event loop would wait for itself")
        future = self.submit(work)
        try:
            return future.result()
        except CancelledError:
            raise _stopped() from None
        except BaseException:
            future.cancel()
            raise

    async def result_async(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, awaited on the caller's loop. When the caller is cancelled, so is the work."""
        future = self.submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closing is not None and (task is None or not task.cancelling()):
                raise _stopped() from None
            raise

    def close(self) -> None:
        """Cancels the work, closes the gateway and ends the thread. May be called again."""
        with self._lock:
            if self._closing is None:
                self._closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        wait((self._closing,))
        self._thread.join()
        self._closing.result()

    def close_soon(self) -> threading.Thread:
        """As :meth:`close`, without waiting and without a lock: for a finalizer, which any thread may run at any
        moment. Returns the thread that ends then."""
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._close()))
        return self._thread

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)

    async def _close(self) -> None:
        """Cancels the running work, closes the gateway, and ends streams that were not read to their end."""
        running = list(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        try:
            await self.gateway.close()
            await self._loop.shutdown_asyncgens()
        finally:
            self._loop.call_soon(self._loop.call_soon, self._loop.stop)  # after who waits was told


def _stopped() -> Unavailable:
    return Unavailable("the service was stopped while it answered", code="shutting_down")


def _loop_of_this_thread() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop = uvloop.new_event_loop()
    assert isinstance(loop, asyncio.AbstractEventLoop)
    return loop
