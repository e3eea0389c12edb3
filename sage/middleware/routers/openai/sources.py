"""The sources of an answer in OpenAI's wire format: a field `sources`, which a stream has in its first chunk; and
`warnings` of their search."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from sage.middleware.gateway.context.sources import SourcesFound
from sage.middleware.gateway.gateway import GatewayCall
from sage.middleware.providers.wire import lenient_json
from sage.middleware.routers.http.respond import Events

_CHUNK = re.compile(rb"^data: ?(\{.*\})$", re.MULTILINE)


def with_sources(found: SourcesFound) -> tuple[Callable[[GatewayCall], bytes], Callable[[GatewayCall], Events]]:
    """``(make_body, make_events)`` for :func:`respond`: they add the sources to the answer, or to its stream."""
    fields = found.fields()

    def make_body(answer: GatewayCall) -> bytes:
        return orjson.dumps({**orjson.loads(answer.body), **fields})

    return make_body, lambda _: Events(_FirstChunk(fields))


class _FirstChunk:
    """Adds the sources to the first chunk of a stream; the others stay unchanged."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields: dict[str, Any] | None = fields

    def __call__(self, events: bytes) -> bytes:
        match = _CHUNK.search(events) if self._fields is not None else None
        if match is None:
            return events
        try:
            chunk = orjson.dumps({**lenient_json.read(match[1]), **(self._fields or {})})
        except ValueError:
            return events  # no reader takes it for a chunk
        self._fields = None
        return events[: match.start(1)] + chunk + events[match.end(1) :]
