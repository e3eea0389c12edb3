"""Cancels a call when its time is over or, over HTTP, when its client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Protocol

from sage.errors import SageError
from sage.middleware.dispatch.deadlines import Deadlines
from sage.middleware.providers.base import ModelCall

_WATCH_AFTER = 0.02
"""Seconds. Under another server a call that ends sooner is not watched, since that costs a task."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientLeft(Exception):
    """The client closed its connection before it had its answer, so there is nobody to answer."""


class WaitingClient(Protocol):
    """Who waits for an answer, as the gateway's own server knows it (``scope["sage.exchange"]``)."""

    disconnected: bool
    on_disconnect: Callable[[], None] | None
    """Called at once when the client disconnects before it has its answer."""
    task: asyncio.Task[None] | None
    """The task of the request, and below its loop: to look them up costs several µs each on Python 3.11."""

    def write(self, body: bytes) -> bool:
        """Sends a further piece of an answer that has begun, if it can be written at once; whether it was."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...


class Watch:
    """``with Watch(call, deadlines, client):`` around the work on a call, entered after the request's body was read.

    It cancels the task when the client disconnects, and raises :class:`ClientLeft` at the end of the block. The task is
    also cancelled at ``call.deadline``, which dispatch turns into :class:`sage.errors.DeadlineExceeded`. Under another
    server than ours there is no ``client``; with ``receive`` a task then waits for the disconnect.
    """

    __slots__ = (
        "_client",
        "_deadlines",
        "_disconnect_watcher",
        "_loop",
        "_receive",
        "_start_timer",
        "_task",
        "call",
        "client_left",
    )

    def __init__(
        self,
        call: ModelCall,
        deadlines: Deadlines,
        client: WaitingClient | None = None,
        receive: Receive | None = None,
    ) -> None:
        self.call = call
        self._deadlines = deadlines
        self._client = client
        self._receive = receive
        if client is not None:
            self._loop, self._task = client.loop, client.task
        else:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.current_task(self._loop)
        self._start_timer: asyncio.TimerHandle | None = None
        self._disconnect_watcher: asyncio.Task[None] | None = None
        self.client_left = False
        """Whether the client has disconnected, and the work was cancelled because of that."""

    def __enter__(self) -> Watch:
        if self._client is not None:
            if self._client.disconnected:
                raise ClientLeft
            self._client.on_disconnect = self._leave
        elif self._receive is not None:
            self._start_timer = self._loop.call_later(_WATCH_AFTER, self._start, self._receive)
        self._deadlines.add(self, self._loop)
        return self

    def _start(self, receive: Receive) -> None:
        self._disconnect_watcher = self._loop.create_task(self._wait_for_disconnect(receive))

    async def _wait_for_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._leave()

    def _leave(self) -> None:
        self.client_left, self.call.timed_out = True, False  # no other attempt: nobody waits for it
        self._deadlines.discard(self)
        self._cancel()

    def expire(self) -> None:
        """Its time is over."""
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def stop(self) -> None:
        """Ends the watch: the client has the complete answer and may disconnect."""
        self._deadlines.discard(self)
        if self._client is not None:
            self._client.on_disconnect = None
        if self._start_timer is not None:
            self._start_timer.cancel()
        if self._disconnect_watcher is not None and not self.client_left:
            self._disconnect_watcher.cancel()
        self._disconnect_watcher = None  # its error's traceback holds this watch, and so the call and its body

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self.client_left and self._task is not None:
            self._task.uncancel()
            if kind is None or issubclass(kind, asyncio.CancelledError | SageError):
                raise ClientLeft
