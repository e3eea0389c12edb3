"""The event loop of one service's ``async`` methods, on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from _thread import LockType, allocate_lock
from collections.abc import Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

from sage.kernels.runtime.services.calls import ServiceCall

_CLOSE = 1.0
"""Seconds that cancelled work has to end when the loop closes."""
_FOREVER = 1e9
_log = logging.getLogger(__name__)


class ServiceLoop:
    """Workers wait here for their coroutines, so that no more run at once than there are workers."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._stopping = False
        self._pending: dict[LockType, None] = {}
        """Locks that workers wait for; an ordered set."""
        self._thread = threading.Thread(target=self._serve, name=f"sage-{name}-loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopping:
            with suppress(SystemExit, KeyboardInterrupt):  # when a method raises it, its call ends, not the loop
                self._loop.run_forever()
        with suppress(SystemExit, KeyboardInterrupt):
            self._loop.run_until_complete(self._cancel_all())
        self._loop.close()

    def run(self, call: ServiceCall, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The coroutine's result. It is cancelled when the call is abandoned, and it has ended when this returns, also
        when that takes it a while: the next call with the same ordered key must not run beside it. Therefore no
        ``asyncio.run_coroutine_threadsafe``, whose future is cancelled before its task has ended."""
        ended = allocate_lock()
        ended.acquire()
        self._pending[ended] = None
        tasks: list[asyncio.Task[Any]] = []

        def begin() -> None:
            task = self._loop.create_task(in_time(call, coroutine))
            tasks.append(task)
            task.add_done_callback(end)

        def end(_: asyncio.Task[Any]) -> None:
            coroutine.close()  # of a task that was cancelled before it began
            self._release(ended)

        def cancel() -> None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())

        try:
            self._loop.call_soon_threadsafe(begin)
        except RuntimeError:
            coroutine.close()
            raise
        call.on_abandon = cancel
        if call.abandoned:
            cancel()
        remaining = max(call.deadline - time.monotonic(), 0.0) if call.deadline is not None else _FOREVER
        if not ended.acquire(timeout=remaining):
            call.expire()
            ended.acquire()
        try:
            return tasks[0].result()
        except (asyncio.CancelledError, asyncio.InvalidStateError, IndexError):
            raise CancelledError(f"'{self._name}'.{call.method} was cancelled") from None
        finally:
            call.on_abandon = None  # it would hold the task

    def _release(self, ended: LockType) -> None:
        if self._pending.pop(ended, ended) is None:
            ended.release()

    def close(self) -> None:
        """Cancels what runs. What does not end then is left behind; so is the thread, when a method blocks the loop."""
        self._stopping = True
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2 * _CLOSE)
        if self._pending:
            _log.warning("async methods of the service '%s' do not end; they are left behind", self._name)
        for ended in list(self._pending):
            self._release(ended)

    async def _cancel_all(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=_CLOSE)
        await self._loop.shutdown_asyncgens()


async def in_time(call: ServiceCall, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs the coroutine unless its call is over: the loop may have been busy until after the deadline."""
    if call.abandoned or call.has_timed_out():
        coroutine.close()
        call.expire()
        raise asyncio.CancelledError
    return await coroutine
