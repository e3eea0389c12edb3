"""The sources of an answer in OpenAI's wire: a field of their own, in a stream on its first chunk."""

from __future__ import annotations

import re
from collections.abc import Callable

import orjson

from sage.middleware.gateway.context.sources import Source
from sage.middleware.gateway.gateway import GatewayCall
from sage.middleware.routers.http.respond import Events

_CHUNK = re.compile(rb"^data: ?(\{.*\})$", re.MULTILINE)


def with_sources(sources: list[Source]) -> tuple[Callable[[GatewayCall], bytes], Callable[[], Events]]:
    """What makes the whole answer, or the events of its stream, with ``sources`` in it."""

    def whole(answer: GatewayCall) -> bytes:
        return orjson.dumps({**orjson.loads(answer.body), "sources": sources})

    return whole, lambda: Events(_FirstChunk(sources))


class _FirstChunk:
    """Adds the sources to the first chunk of a stream; all others go on as they are."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources: list[Source] | None = sources

    def __call__(self, events: bytes) -> bytes:
        found = _CHUNK.search(events) if self._sources is not None else None
        if found is None:
            return events
        chunk = orjson.dumps({**orjson.loads(found[1]), "sources": self._sources})
        self._sources = None
        return events[: found.start(1)] + chunk + events[found.end(1) :]
