"""The sources of an answer in OpenAI's wire format: a field `sources`, which a stream has in its first chunk."""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson

from sage.middleware.gateway.context.sources import Source
from sage.middleware.gateway.gateway import GatewayCall
from sage.middleware.providers.wire import lenient_json
from sage.middleware.routers.http.respond import Events

_CHUNK = re.compile(rb"^data: ?(\{.*\})$", re.MULTILINE)


def with_sources(sources: list[Source]) -> tuple[Callable[[GatewayCall], bytes], Callable[[], Events]]:
    """``(make_body, make_events)`` for :func:`respond`: they add ``sources`` to the answer, or to its stream."""

    def make_body(answer: GatewayCall) -> bytes:
        return orjson.dumps({**orjson.loads(answer.body), "sources": sources})

    return make_body, lambda: Events(_FirstChunk(sources))


class _FirstChunk:
    """Adds the sources to the first chunk of a stream; the others stay unchanged."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources: list[Source] | None = sources

    def __call__(self, events: bytes) -> bytes:
        match = _CHUNK.search(events) if self._sources is not None else None
        if match is None:
            return events
        try:
            chunk = orjson.dumps({**lenient_json.read(match[1]), "sources": self._sources})
        except ValueError:
            return events  # no reader takes it for a chunk
        self._sources = None
        return events[: match.start(1)] + chunk + events[match.end(1) :]
