"""Sending a stream to the client: as it comes, and never with an invented end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import orjson

from sage.errors import SageError, Unavailable
from sage.middleware.gateway.gateway import GatewayCall
from sage.middleware.gateway.watch import Watch
from sage.middleware.providers.base import Sink, takes_nothing
from sage.middleware.routers.http.asgi import Headers, Scope, Send, error_facts, note

EVENTS = b"text/event-stream; charset=utf-8"
_LAST_EVENT = 1.0
"""Seconds that the error event of a cancelled stream may take to be sent."""
_KEEP_ALIVE = b":\n\n"  # a comment, which clients ignore
Translate = Callable[[bytes], bytes]
End = Callable[[], bytes | Awaitable[bytes]]


class TranslatingSink:
    """Takes events of a stream, and writes them in a surface's own format where the client takes them at once."""

    __slots__ = ("_translate", "_write", "held")

    def __init__(self, translate: Translate, write: Sink) -> None:
        self._translate = translate
        self._write = write
        self.held = b""
        """What the events that were not taken are in that format."""

    def __call__(self, events: bytes) -> bool:
        piece = self._translate(events)
        if not piece or self._write(piece):
            return True
        self.held = piece
        return False


async def stream(
    answer: GatewayCall,
    scope: Scope,
    send: Send,
    watching: Watch,
    translate: Translate | None = None,
    end: End | None = None,
    error_event: Callable[[SageError], bytes] | None = None,
    media_type: bytes = EVENTS,
) -> None:
    """Sends the events of ``answer``, through ``translate`` if the surface has a wire format of its own.

    ``end`` makes its last events once the answer is complete. A stream that breaks ends with an error event, which
    ``error_event`` makes if the surface has one of its own.
    """
    await start_stream(send, answer.headers(), media_type)
    client = scope.get("sage.exchange")
    write: Sink = takes_nothing if client is None else client.write
    sink = None
    if translate is not None and client is not None:
        write = sink = TranslatingSink(translate, write)
    try:
        events, has_head = answer.body, True
        while events:
            if sink is not None and sink.held:
                piece, sink.held = sink.held, b""
            else:
                piece = translate(events) if translate is not None else events
            if piece or has_head:  # the head is held until the first event
                await send({"type": "http.response.body", "body": piece or _KEEP_ALIVE, "more_body": True})
                has_head = False
            events = await answer.more(write)
        if end is not None:
            made = end()
            last = made if isinstance(made, bytes) else await made
            if answer.is_drained:  # as it mostly is: the last events and the end are one piece
                await end_stream(send, last)
                watching.stop()
                return
            await send_events(send, last)
        watching.stop()
        await answer.drain()
    except SageError as error:
        await _break(answer, scope, send, error, error_event or _error_event)
    except asyncio.CancelledError:
        if not watching.client_left:
            closing = (
                watching.revoked
                or answer.timed_out()
                or Unavailable("the gateway is shutting down", code="shutting_down")
            )
            with contextlib.suppress(TimeoutError):  # a client that does not read is cut off
                async with asyncio.timeout(_LAST_EVENT):
                    await _break(answer, scope, send, closing, error_event or _error_event)
                    await end_stream(send)
        raise
    await end_stream(send)


def end_stream(send: Send, last: bytes = b"") -> Awaitable[None]:
    """Sends the end of a stream, after its ``last`` events."""
    return send({"type": "http.response.body", "body": last, "more_body": False})


def start_stream(send: Send, headers: Headers, media_type: bytes = EVENTS) -> Awaitable[None]:
    """Sends the head of a stream of events."""
    head = [
        (b"content-type", media_type),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
        *headers,
    ]
    return send({"type": "http.response.start", "status": 200, "headers": head})


def send_events(send: Send, events: bytes) -> Awaitable[None]:
    """Sends complete events of a stream."""
    return send({"type": "http.response.body", "body": events, "more_body": True})


async def _break(
    answer: GatewayCall, scope: Scope, send: Send, error: SageError, event: Callable[[SageError], bytes]
) -> None:
    """Sends an error event; ``[DONE]`` never follows it."""
    answer.broke(error)
    note(scope, **error_facts(error))
    await send_events(send, event(error))


def _error_event(error: SageError) -> bytes:
    return b"data: " + orjson.dumps(error.envelope()) + b"\n\n"
