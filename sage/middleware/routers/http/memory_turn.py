"""A chat with ``memory`` on a surface in a vendor's shape: what was recalled is shown, and the turn is stored.

The turn is stored once the answer is complete, before its last event is sent: who asks again then, finds it. An answer
that calls the caller's tools is not the end of a turn: what follows the tools' results is, and that is stored.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from sage.errors import InvalidRequest
from sage.middleware.gateway.collections.requests import parse
from sage.middleware.gateway.context.chat_memory import MemoryRequest
from sage.middleware.gateway.context.context import Context
from sage.middleware.gateway.gateway import GatewayCall
from sage.middleware.providers.wire import lenient_json
from sage.middleware.providers.wire.messages import DeltaReader, read_message
from sage.middleware.providers.wire.sse import payloads
from sage.middleware.routers.http.respond import Events

MakeBody = Callable[[GatewayCall], bytes | Awaitable[bytes]]
MakeEvents = Callable[[GatewayCall], Events]

_EVENT = re.compile(rb"^data: ?(\{.*\})$", re.MULTILINE)
_DONE = re.compile(rb"^data: ?\[DONE\]\s*", re.MULTILINE)


def read_memory(body: dict[str, Any]) -> MemoryRequest | None:
    """Takes ``memory`` out of the body of a request. Raises :class:`InvalidRequest` that names the field at fault."""
    memory = body.pop("memory", None)
    if memory is None:
        return None
    if body.get("n") not in (None, 1):
        raise InvalidRequest("'n' must be 1 with 'memory': a turn has one answer", param="n")
    return parse(MemoryRequest, memory, "memory")


def in_context(
    context: Context,
    make_body: MakeBody | None = None,
    make_events: MakeEvents | None = None,
    *,
    inside: str | None = None,
) -> tuple[MakeBody, MakeEvents]:
    """``(make_body, make_events)`` for :func:`respond`, around those of a surface; without them the answer is OpenAI's
    chat. They add the fields of ``context`` to an answer, or to the first event of a stream (to the object ``inside``
    it), and store the turn."""

    async def body(answer: GatewayCall) -> bytes:
        if context.memory is not None:
            choices = orjson.loads(answer.body)["choices"]
            message = read_message(choices[0].get("message") if choices else None)
            await context.store_turn(message.shown, message.calls)
        made = answer.body if make_body is None else make_body(answer)
        shown = orjson.loads(made if isinstance(made, bytes) else await made)
        return orjson.dumps({**shown, **context.fields(), **context.warnings()})

    def events(answer: GatewayCall) -> Events:
        if make_events is None:
            chat = _ChatStream(context)
            return Events(chat.translate, chat.end if context.memory is not None else None)
        surface = make_events(answer)
        turn = _SurfaceStream(context, surface, inside)
        return Events(turn.translate, turn.end, surface.error_event, surface.media_type)

    return body, events


class FirstEvent:
    """Adds fields to the first event of a stream, or to the object ``inside`` it; the others stay unchanged."""

    def __init__(self, fields: dict[str, Any], inside: str | None = None) -> None:
        self._fields: dict[str, Any] | None = fields
        self._inside = inside

    def __call__(self, events: bytes) -> bytes:
        match = _EVENT.search(events) if self._fields else None
        if match is None:
            return events
        try:
            event = lenient_json.read(match[1])
        except ValueError:
            return events  # no reader takes it for an event
        holder = event if self._inside is None else event.get(self._inside)
        if isinstance(holder, dict):
            holder.update(self._fields or {})
        self._fields = None
        return events[: match.start(1)] + orjson.dumps(event) + events[match.end(1) :]


class _Turn:
    """Gathers the text of an answer from the events of its chat, and stores the turn."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reader = DeltaReader()
        self._pieces: list[str] = []
        self.last: dict[str, Any] = {}
        """The last chunk."""

    def read(self, events: bytes) -> None:
        for chunk in payloads(events):
            if not isinstance(chunk, dict):
                continue
            self.last = chunk
            choices = chunk.get("choices")
            if isinstance(choices, list) and choices and isinstance(choices[0], dict):
                self._pieces.append(self._reader.read(choices[0].get("delta")).shown)

    async def store(self) -> None:
        await self._context.store_turn("".join(self._pieces), self._reader.calls)


class _ChatStream:
    """OpenAI's chunks. With a memory, ``[DONE]`` waits until the turn is stored."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._first = FirstEvent({**context.fields(), **context.warnings()})
        self._known = context.warnings()
        self._turn = _Turn(context)

    def translate(self, events: bytes) -> bytes:
        if self._context.memory is not None:
            self._turn.read(events)
            events = _DONE.sub(b"", events)
        return self._first(events)

    async def end(self) -> bytes:
        await self._turn.store()
        warnings = self._context.warnings()
        if warnings == self._known:
            return b"data: [DONE]\n\n"
        head = {name: self._turn.last.get(name) for name in ("id", "object", "created", "model")}
        return b"data: " + orjson.dumps({**head, "choices": [], **warnings}) + b"\n\ndata: [DONE]\n\n"


class _SurfaceStream:
    """The events of a surface with a wire format of its own."""

    def __init__(self, context: Context, surface: Events, inside: str | None) -> None:
        self._surface = surface
        self._first = FirstEvent({**context.fields(), **context.warnings()}, inside)
        self._turn = _Turn(context)

    def translate(self, events: bytes) -> bytes:
        self._turn.read(events)
        translate = self._surface.translate
        return self._first(events if translate is None else translate(events))

    async def end(self) -> bytes:
        await self._turn.store()
        last = b"" if self._surface.end is None else self._surface.end()
        return last if isinstance(last, bytes) else await last
