"""Ends a call's work when its whole time is over or, over HTTP, when its client leaves."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any

from sage.errors import SageError
from sage.middleware.providers.base import ModelCall

# A call that ends within this many seconds is not watched: watching costs a task and timers.
_AFTER = 0.02

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientLeft(Exception):
    """The client closed its connection before it had its answer. Nobody is there to be answered."""


class Watch:
    """``with Watch(call, receive):`` around a call's work, entered once the request's body has been read.

    The work's task is cancelled when the client leaves, for which :class:`ClientLeft` is raised in the end, and when
    ``call.deadline`` has passed, which dispatch turns into :class:`sage.errors.DeadlineExceeded`. ``task`` and ``loop``
    save looking for them, which costs several µs each on Python 3.11.
    """

    __slots__ = ("_call", "_loop", "_receive", "_task", "_ticker", "_timer", "_watcher", "left")

    def __init__(
        self,
        call: ModelCall,
        receive: Receive | None = None,
        task: asyncio.Task[Any] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._call = call
        self._receive = receive
        self._loop = loop or asyncio.get_running_loop()
        self._task = task or asyncio.current_task(self._loop)
        self._watcher: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self.left = False
        """The client has gone, and the work was cancelled for that."""

    def __enter__(self) -> Watch:
        self._timer = self._loop.call_later(_AFTER, self._begin)
        return self

    def _begin(self) -> None:
        if self._receive is not None:
            self._watcher = self._loop.create_task(self._wait_for_departure(self._receive))
        self._call.on_deadline = self._look
        self._look()

    def _look(self) -> None:
        """Cancels the work if its time is over, else looks again when it will be."""
        call = self._call
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        if self.left or call.timed_out or call.deadline == math.inf:
            return
        left = call.deadline - time.monotonic()
        if left > 0:
            self._ticker = self._loop.call_later(left, self._look)
        else:
            call.timed_out = True
            self._cancel()

    async def _wait_for_departure(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left, self._call.timed_out = True, False  # nobody is there for another attempt
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def stop(self) -> None:
        """Ends watching: the whole answer is with the client, which may go."""
        self._timer.cancel()
        self._call.on_deadline = None
        if self._ticker is not None:
            self._ticker.cancel()
        if self._watcher is not None and not self.left:
            self._watcher.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self.left and self._task is not None:
            self._task.uncancel()
            if kind is None or issubclass(kind, asyncio.CancelledError | SageError):
                raise ClientLeft
