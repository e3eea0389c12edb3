"""Cancels a call when its time is over or, over HTTP, when its client disconnects."""

from __future__ import annotations

import asyncio
import math
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
    """Who waits for an answer: an exchange of the gateway's own server (``scope["sage.exchange"]``), or an
    :class:`AsgiClient`."""

    disconnected: bool
    on_disconnect: Callable[[], None] | None
    """Called at once when the client disconnects before it has its answer."""
    task: asyncio.Task[None] | None
    """The task of the request: to look it up costs several µs on Python 3.11."""

    def write(self, body: bytes) -> bool:
        """Sends a further piece of an answer that has begun, if it can be written at once; whether it was."""
        ...


class AsgiClient:
    """A client behind another server than ours, which only ``receive`` tells of: a task waits for its disconnect."""

    disconnected = False

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self.task = asyncio.current_task()
        self._on_disconnect: Callable[[], None] | None = None
        self._start_timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def on_disconnect(self) -> Callable[[], None] | None:
        return self._on_disconnect

    @on_disconnect.setter
    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        self._on_disconnect = callback
        if callback is not None:
            self._start_timer = self._loop.call_later(_WATCH_AFTER, self._start)
            return
        if self._start_timer is not None:
            self._start_timer.cancel()
        if self._watcher is not None and self._watcher is not asyncio.current_task():
            self._watcher.cancel()
        self._watcher = None  # its error's traceback holds the client, and so the call and its body

    def write(self, body: bytes) -> bool:
        return False

    def _start(self) -> None:
        self._watcher = self._loop.create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._on_disconnect is not None:
            self._on_disconnect()


class Watch:
    """``with Watch(call, deadlines, client):`` around the work on a call, entered after the request's body was read.

    It cancels the task when the client disconnects, and raises :class:`ClientLeft` at the end of the block. The task is
    also cancelled at ``call.deadline``, which dispatch turns into :class:`sage.errors.DeadlineExceeded`. Without a
    ``client`` there is only the deadline.

    ``scope`` is the request's, by which its caller can be looked up again; ``None`` means that there was none.
    """

    __slots__ = ("_client", "_deadlines", "_task", "call", "client_left", "revoked", "scope", "trusted_at", "until")

    def __init__(
        self,
        call: ModelCall,
        deadlines: Deadlines,
        client: WaitingClient | None = None,
        scope: MutableMapping[str, Any] | None = None,
    ) -> None:
        self.call = call
        self.scope = scope
        self._deadlines = deadlines
        self._client = client
        self.client_left = False
        """Whether the client has disconnected, and the work was cancelled because of that."""
        self.trusted_at = -1
        """The revision of rights at which the caller was last seen to have the right to the answer."""
        self.until = math.inf
        """When that right ends by itself (Unix seconds)."""
        self.revoked: SageError | None = None
        """Why the caller may not have the answer any more, and the work was cancelled because of that."""

    def __enter__(self) -> Watch:
        client = self._client
        if client is None:
            task = asyncio.current_task()
        else:
            task = client.task
            if client.disconnected:
                raise ClientLeft
            client.on_disconnect = self._leave
        assert task is not None
        self._task = task
        self._deadlines.add(self, task.get_loop())
        return self

    def _leave(self) -> None:
        self.client_left, self.call.timed_out = True, False  # no other attempt: nobody waits for it
        self._deadlines.discard(self)
        self.expire()

    def revoke(self, error: SageError) -> None:
        """The caller has lost the right to the answer: the work is cancelled, and ``error`` raised at its end."""
        if self.revoked is None and not self.client_left:
            self.revoked, self.call.timed_out = error, False
            self.stop()
            self.expire()

    def expire(self) -> None:
        """Its time is over."""
        self._task.cancel()

    def stop(self) -> None:
        """Ends the watch: the client has the complete answer and may disconnect."""
        self._deadlines.discard(self)
        self.scope = None  # an error's traceback holds the watch, and so the request with its body
        if self._client is not None:
            self._client.on_disconnect = None

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self.revoked is not None:
            self._task.uncancel()
            if kind is None or issubclass(kind, asyncio.CancelledError | SageError):
                raise self.revoked
        if self.client_left:
            self._task.uncancel()
            if kind is None or issubclass(kind, asyncio.CancelledError | SageError):
                raise ClientLeft
