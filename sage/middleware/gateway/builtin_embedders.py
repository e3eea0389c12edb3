"""The embedders that run in this process, as models: ``/v1/embeddings`` and every other surface that embeds asks them.

They are those of :mod:`sage.middleware.retrieval.embedding.builtin`, so an answer holds the very vectors that a
collection would, and a process has each model in memory once. One is loaded by the first text, on a thread.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from sage.errors import DeadlineExceeded, InvalidRequest, Unavailable, Unsupported
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.providers.base import (
    Endpoint,
    ModelCall,
    Operation,
    ReadInChunks,
    Relay,
    UpstreamModel,
    UpstreamRequest,
    Usage,
)
from sage.middleware.providers.vendor import HINTS, Vendor
from sage.middleware.providers.wire.sse import read_usage
from sage.middleware.retrieval.embedding.builtin import KINDS, builtin_embedder, kind_named
from sage.middleware.retrieval.embedding.kind import EmbedderKind
from sage.middleware.settings.providers import ProviderCommon
from sage.processors import available_processors

if TYPE_CHECKING:  # brings numpy, which a gateway that nobody searches does not load
    from sage.middleware.retrieval.embedding.protocols import Embedder

NAMES: Mapping[str, bool] = {name: name == kind.full_name for kind in KINDS for name in (kind.name, kind.full_name)}
"""The names of all kinds, each with whether it is one to list: the name by which collections show it."""
_FIELDS = HINTS | {"input", "encoding_format", "dimensions", "input_type"}
_FOR_QUERIES = ("query", "search_query")
_FOR_DOCUMENTS = ("document", "passage", "search_document")
_AT_ONCE = 32
"""Texts between two looks at whether the caller still waits."""
_MOST_WAITING = 256


class EmbedderProvider(Vendor):
    """Answers without an upstream: its requests carry what computes the answer in this process."""

    def __init__(self) -> None:
        super().__init__("local", ProviderCommon(kind="local"))
        self.endpoints = (Endpoint(""),)
        self._pool = BoundedPool("embeddings", available_processors(), _MOST_WAITING)

    def missing(self, model: str) -> str | None:
        kind = kind_named(model)
        if kind is None or kind.is_installed:
            return None
        return f"it needs the extra '{kind.extra}': pip install 'intellistream-sage-middleware[{kind.extra}]'"

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        kind = kind_named(target.model)
        assert kind is not None, f"{target.model} is no built-in embedder"
        if call.operation is not Operation.EMBEDDINGS:
            raise Unsupported(
                f"'{call.model}' is an embedder, and {call.operation} needs another kind of model",
                param="model",
                code="unsupported_operation",
            )
        reason = self.missing(target.model)
        if reason is not None:
            raise Unavailable(f"model '{call.model}' cannot serve: {reason}", param="model", code="model_unavailable")
        self._check(call, target, kind)
        request = UpstreamRequest(self.name, "POST", "", {}, b"", self.timeouts)
        request.transport = _Computation(
            kind, _texts(call.body.get("input")), self._is_query(call, target), _format(call.body), call, self._pool
        )
        return request

    def _check(self, call: ModelCall, target: UpstreamModel, kind: EmbedderKind) -> None:
        self._check_denied(call.body)
        for name, value in call.body.items():
            if name not in _FIELDS and value is not None:
                self._cannot(target, name)
        if call.body.get("dimensions") not in (None, kind.dimension):
            self._cannot(target, "dimensions", f" other than {kind.dimension}")

    def _is_query(self, call: ModelCall, target: UpstreamModel) -> bool:
        """Whether the texts are queries, which some models embed in another way than documents."""
        native = call.native.body.get("input_type") if call.native is not None else None
        purpose = call.body.get("input_type", native)
        if purpose not in (None, *_FOR_QUERIES, *_FOR_DOCUMENTS) and native is None:
            self._cannot(target, "input_type", f" other than {', '.join((*_FOR_QUERIES, *_FOR_DOCUMENTS))}")
        return purpose in _FOR_QUERIES

    def decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        return self._decode(call, body)

    def _decode(self, call: ModelCall, body: bytes) -> tuple[bytes, Usage | None]:
        # The usage stands at the end, behind numbers that nobody needs to read again.
        return body, read_usage(orjson.loads(body[body.rindex(b'"usage":') + len(b'"usage":') : -1]))

    def relay(self, call: ModelCall) -> Relay:
        raise self._no_such_operation(call)  # embeddings are no stream

    def close(self) -> None:
        """Waits for the batches that are computed now; what waits is cancelled."""
        self._pool.close()


@dataclass(slots=True)
class _Computation:
    """A :class:`~sage.middleware.providers.transport.Transport` for one call: computes its answer on threads."""

    kind: EmbedderKind
    texts: Sequence[str]
    query: bool
    encoding_format: str
    call: ModelCall
    pool: BoundedPool

    async def send(self, request: UpstreamRequest) -> _Answer:
        total = request.timeouts.total if request.total is None else request.total
        try:
            async with asyncio.timeout(total):
                return _Answer(await self._compute())
        except TimeoutError:
            raise DeadlineExceeded(
                f"model '{self.call.model}' did not embed all texts within {total:g} s; send fewer at a time",
                code="total_timeout",
            ) from None

    async def _compute(self) -> bytes:
        items: list[bytes] = []
        tokens = 0
        for start in range(0, len(self.texts), _AT_ONCE):
            work = partial(_embed, self.kind, self.texts[start : start + _AT_ONCE], self.query, self.encoding_format)
            made, counted = await self.pool.run(work, self.call.caller[0])
            items += made
            tokens += counted
        data = b",".join(b'{"object":"embedding","index":%d,"embedding":%b}' % item for item in enumerate(items))
        usage = orjson.dumps({"prompt_tokens": tokens, "total_tokens": tokens})
        model = orjson.dumps(self.call.model)
        return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (data, model, usage)

    async def close(self) -> None:
        return None


@dataclass(slots=True)
class _Answer(ReadInChunks):
    """An :class:`~sage.middleware.providers.transport.UpstreamResponse` that is complete."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    async def read(self) -> bytes:
        return self.body

    async def chunk(self) -> bytes:
        body, self.body = self.body, b""
        return body

    def close(self) -> None:
        return None


def _embed(kind: EmbedderKind, texts: Sequence[str], query: bool, encoding_format: str) -> tuple[list[bytes], int]:
    """The vectors as JSON, and how many tokens the texts have; for a thread."""
    embedder = builtin_embedder(kind.name)
    assert embedder is not None
    vectors = embedder.embed(texts, query=query)
    as_json = _WRITERS[encoding_format]
    return [as_json(vector) for vector in vectors], _count(embedder, texts)


def _count(embedder: Embedder, texts: Sequence[str]) -> int:
    count = getattr(embedder, "count_tokens", None)
    return 0 if count is None else int(count(texts))


def _numbers(vector: Any) -> bytes:
    return orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(vector: Any) -> bytes:
    return b'"%b"' % base64.b64encode(vector.astype("<f4").tobytes())


_WRITERS: Mapping[str, Callable[[Any], bytes]] = {"float": _numbers, "base64": _base64}


def _format(body: Mapping[str, Any]) -> str:
    encoding_format = body.get("encoding_format") or "float"
    if encoding_format not in _WRITERS:
        raise InvalidRequest("'encoding_format' must be 'float' or 'base64'", param="encoding_format")
    return str(encoding_format)


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest(
            "'input' must be a text or a list of texts: an embedder of the gateway takes no numbers of tokens",
            param="input",
        )
    # Halves of surrogate pairs, which callers in Python may send, are no text that a tokenizer takes.
    return [text if text.isascii() else text.encode("utf-8", "replace").decode() for text in texts]
