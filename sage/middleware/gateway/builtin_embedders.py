"""The models that run in this process: ``/v1/embeddings``, ``/rerank`` and every other surface asks them.

They are those of :mod:`sage.middleware.retrieval.embedding.builtin` and those that were pulled from a hub in ONNX's
format (``hf:…``), so an answer holds the very vectors that a collection would, and a process has each model in memory
once. One is loaded by the first text, on a thread.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from sage.errors import InvalidRequest, SageError, Unavailable, Unsupported
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.gateway.computation import Computation
from sage.middleware.hub.snapshots import Snapshots, not_pulled
from sage.middleware.hub.sources import is_source, parse_source
from sage.middleware.providers.base import Endpoint, ModelCall, Operation, Relay, UpstreamModel, UpstreamRequest, Usage
from sage.middleware.providers.vendor import HINTS, Vendor
from sage.middleware.providers.wire.sse import read_usage
from sage.middleware.retrieval.embedding.builtin import EARLIER, KINDS, builtin_embedder, kind_named
from sage.middleware.settings.providers import ProviderCommon
from sage.processors import available_processors

if TYPE_CHECKING:  # brings numpy, which a gateway that nobody searches does not load
    from sage.middleware.retrieval.embedding.protocols import Embedder

NAMES: Mapping[str, bool] = {
    **{kind.full_name: False for kind in EARLIER},
    **{name: name == kind.full_name for kind in KINDS for name in (kind.name, kind.full_name)},
}
"""The names of all kinds, each with whether it is one to list: the name by which new collections show it."""
_FIELDS = HINTS | {"input", "encoding_format", "dimensions", "input_type"}
_FOR_QUERIES = ("query", "search_query")
_FOR_DOCUMENTS = ("document", "passage", "search_document")
_RERANK_FIELDS = HINTS | {"query", "documents", "top_n"}
_MOST_WAITING = 256


class EmbedderProvider(Vendor):
    """Answers without an upstream: its requests carry what computes the answer in this process."""

    def __init__(self, models: Path) -> None:
        """``models`` is the directory of what was pulled from hubs."""
        super().__init__("local", ProviderCommon(kind="local"))
        self.endpoints = (Endpoint(""),)
        self._models = models
        self._snapshots = Snapshots(models)
        self._pool = BoundedPool("embeddings", available_processors(), _MOST_WAITING)

    def known_models(self) -> tuple[str, ...]:
        """Those that were pulled."""
        return tuple(self._snapshots.names())

    def remove(self, name: str) -> bool:
        """Deletes what was pulled as ``name``; tells whether there was anything."""
        return self._snapshots.remove(parse_source(name))

    def missing(self, model: str) -> str | None:
        if is_source(model):
            try:
                source = parse_source(model)
                return not_pulled(source).message if self._snapshots.find(source) is None else None
            except SageError as exc:
                return exc.message
        kind = kind_named(model)
        if kind is None or kind.is_installed:
            return None
        return f"it needs the extra '{kind.extra}': pip install 'intellistream-sage-middleware[{kind.extra}]'"

    def encode(self, call: ModelCall, target: UpstreamModel, endpoint: Endpoint) -> UpstreamRequest:
        from_hub = is_source(target.model)
        if call.operation is not Operation.EMBEDDINGS and not (from_hub and call.operation is Operation.RERANK):
            raise Unsupported(
                f"'{call.model}' is an embedder, and {call.operation} needs another kind of model",
                param="model",
                code="unsupported_operation",
            )
        if not from_hub:
            reason = self.missing(target.model)
            if reason is not None:
                raise Unavailable(
                    f"model '{call.model}' cannot serve: {reason}", param="model", code="model_unavailable"
                )
        reranks = call.operation is Operation.RERANK
        self._check(call, target, _RERANK_FIELDS if reranks else _FIELDS)
        request = UpstreamRequest(self.name, "POST", "", {}, b"", self.timeouts)
        request.transport = self._reranking(call, target) if reranks else self._embedding(call, target)
        return request

    def _embedding(self, call: ModelCall, target: UpstreamModel) -> Computation:
        kind = kind_named(target.model)
        dimensions = call.body.get("dimensions")
        if kind is not None and dimensions not in (None, kind.dimension):
            self._cannot(target, "dimensions", f" other than {kind.dimension}")
        if kind is None and dimensions is not None:
            self._cannot(target, "dimensions")
        embedder = (
            partial(_builtin, kind.full_name) if kind is not None else partial(_pulled, self._models, target.model)
        )
        compute = partial(_embed, embedder, self._is_query(call, target), _format(call.body))
        texts = _texts(call.body.get("input"))
        return Computation(compute, partial(_embeddings, call.model), texts, call, self._pool)

    def _reranking(self, call: ModelCall, target: UpstreamModel) -> Computation:
        compute = partial(_rerank, self._models, target.model, _text(call.body["query"]))
        texts = [_text(document) for document in call.body["documents"]]
        return Computation(compute, _reranked, texts, call, self._pool)

    def _check(self, call: ModelCall, target: UpstreamModel, fields: frozenset[str]) -> None:
        self._check_denied(call.body)
        for name, value in call.body.items():
            if name not in fields and value is not None:
                self._cannot(target, name)

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


def _builtin(name: str) -> Embedder:
    embedder = builtin_embedder(name)
    assert embedder is not None
    return embedder


def _pulled(models: Path, name: str) -> Embedder:
    # Here, since it brings numpy.
    from sage.middleware.retrieval.embedding.hub.models import hub_embedder

    return hub_embedder(models, name, fetch=False)


def _embed(
    find: Callable[[], Embedder], query: bool, encoding_format: str, texts: Sequence[str]
) -> tuple[list[bytes], int]:
    """The vectors as JSON, and how many tokens the texts have; for a thread."""
    embedder = find()
    vectors = embedder.embed(texts, query=query)
    as_json = _WRITERS[encoding_format]
    return [as_json(vector) for vector in vectors], _count(embedder, texts)


def _embeddings(model: str, items: Sequence[bytes], tokens: int) -> bytes:
    data = b",".join(b'{"object":"embedding","index":%d,"embedding":%b}' % item for item in enumerate(items))
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (data, orjson.dumps(model), _usage(tokens))


def _rerank(models: Path, name: str, query: str, texts: Sequence[str]) -> tuple[list[bytes], int]:
    """The scores as JSON, and how many tokens were computed for them; for a thread."""
    # Here, since it brings numpy.
    from sage.middleware.retrieval.embedding.hub.models import hub_reranker

    reranker = hub_reranker(models, name, fetch=False)
    return [orjson.dumps(score) for score in reranker.rerank(query, texts)], reranker.count_tokens(query, texts)


def _reranked(items: Sequence[bytes], tokens: int) -> bytes:
    results = b",".join(b'{"index":%d,"relevance_score":%b}' % item for item in enumerate(items))
    return b'{"results":[%b],"usage":%b}' % (results, _usage(tokens))


def _usage(tokens: int) -> bytes:
    return orjson.dumps({"prompt_tokens": tokens, "total_tokens": tokens})


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
    return [_text(text) for text in texts]


def _text(text: str) -> str:
    """Halves of surrogate pairs, which callers in Python may send, are no text that a tokenizer takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
