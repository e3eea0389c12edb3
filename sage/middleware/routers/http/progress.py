"""The progress of long work as server-sent events, for as long as the client listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import orjson

from sage.errors import SageError, Unavailable
from sage.middleware.gateway.watch import ClientLeft
from sage.middleware.providers.base import PullProgress
from sage.middleware.providers.wire.event_bytes import DONE
from sage.middleware.routers.http.asgi import Receive, Scope, Send, note
from sage.middleware.routers.http.open_answers import REVOKED, LongAnswer
from sage.middleware.routers.http.streaming import end_stream, send_events, start_stream


async def then(
    progress: AsyncGenerator[PullProgress, None], done: Callable[[], Awaitable[None]]
) -> AsyncGenerator[PullProgress, None]:
    """``progress``, and ``done`` once it has come to its end without an error."""
    async with aclosing(progress):
        async for step in progress:
            yield step
    await done()


class ProgressStream(LongAnswer):
    """Events ``{"status", "completed", "total"}``, then ``[DONE]``. Work that fails ends with an error event.

    An error before the first event is raised, so that it gets its own status. A client that disconnects
    ends ``progress``.
    """

    def __init__(self, progress: AsyncGenerator[PullProgress, None]) -> None:
        super().__init__()
        self._progress = progress
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._run(scope, send))
        disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await asyncio.wait((work, disconnect), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientLeft
        except asyncio.CancelledError:
            await _cancel(work)
            if self._started and not disconnect.done():
                ending = Unavailable("the gateway is shutting down", code="shutting_down")
                await _break(scope, send, scope["state"].get(REVOKED) or ending)
            raise
        finally:
            await _cancel(work, disconnect)
        work.result()

    async def _run(self, scope: Scope, send: Send) -> None:
        async with aclosing(self._progress) as progress:
            try:
                async for step in progress:
                    await self._start(send)
                    await send_events(send, b"data: " + orjson.dumps(_event(step)) + b"\n\n")
                await self._start(send)
                await send_events(send, DONE)
                await end_stream(send)
            except SageError as error:
                if not self._started:
                    raise
                await _break(scope, send, error)

    async def _start(self, send: Send) -> None:
        if not self._started:
            self._started = True
            await start_stream(send, [])


def _event(step: PullProgress) -> dict[str, Any]:
    model = {"model": step.model} if step.model is not None else {}
    return {"status": step.status, "completed": step.completed, "total": step.total, **model}


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Future[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _break(scope: Scope, send: Send, error: SageError) -> None:
    note(scope, error=error.code)
    await send_events(send, b"data: " + orjson.dumps(error.envelope()) + b"\n\n")
    await end_stream(send)
