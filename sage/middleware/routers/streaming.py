"""How a stream goes to the client: as it comes, and never with a finish of our making."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson

from sage.errors import SageError, Unavailable
from sage.middleware.gateway.gateway import Answering
from sage.middleware.gateway.watch import Watch
from sage.middleware.routers.asgi import Headers, Scope, Send, note

_ALIVE = b":\n\n"  # a comment, which clients pass over
Translate = Callable[[bytes], bytes]


async def stream(
    answer: Answering,
    scope: Scope,
    send: Send,
    watching: Watch,
    translate: Translate | None = None,
    end: Callable[[], bytes] | None = None,
) -> None:
    """Sends the events of ``answer`` on, through ``translate`` where the surface has a wire of its own.

    ``end`` makes its last events once the answer is whole. A stream that breaks ends with an error event.
    """
    await _start(send, answer.headers())
    try:
        events = answer.body
        while events:
            piece = translate(events) if translate is not None else events
            if piece or events is answer.body:
                await _send(send, piece or _ALIVE)  # the head goes with it, also before there is any text
            if answer.finished:
                break
            events = await answer.more()
        if end is not None:
            await _send(send, end())
        watching.stop()
        await answer.drain()
    except SageError as error:
        await _break(answer, scope, send, error)
    except asyncio.CancelledError:
        if not watching.left and not answer.overdue:
            await _break(answer, scope, send, Unavailable("the gateway is shutting down", code="shutting_down"))
            await _end(send)
        raise
    await _end(send)


async def _end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _start(send: Send, headers: Headers) -> None:
    head = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
        *headers,
    ]
    await send({"type": "http.response.start", "status": 200, "headers": head})


async def _send(send: Send, events: bytes) -> None:
    await send({"type": "http.response.body", "body": events, "more_body": True})


async def _break(answer: Answering, scope: Scope, send: Send, error: SageError) -> None:
    """Says in an event that the stream broke; ``[DONE]`` never follows it."""
    answer.broke(error)
    note(scope, error=error.code)
    await _send(send, b"data: " + orjson.dumps(error.envelope()) + b"\n\n")
