"""A sentence-transformers model from a hub as an embedder."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sage.middleware.hub.snapshots import Snapshot
from sage.middleware.retrieval.embedding.hub.onnx_model import OnnxModel
from sage.middleware.retrieval.embedding.hub.recipe import EmbedderRecipe, embedder_recipe
from sage.middleware.retrieval.embedding.query_cache import QueryCache
from sage.middleware.retrieval.embedding.token_batches import token_batches
from sage.processors import available_processors

_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
_TEXT_OUTPUT = "sentence_embedding"
_TOKENIZED_AT_ONCE = 256

Vectors = NDArray[np.float32]


class HubEmbedder:
    """An :class:`~sage.middleware.retrieval.embedding.protocols.Embedder`, on its caller's thread.

    Small batches of documents, one at a time, and one of queries for each core bound its memory. The model is read with
    the first text. Queries do not wait for documents.
    """

    languages: frozenset[str] | None = None

    def __init__(self, snapshot: Snapshot) -> None:
        """Raises :class:`ConfigError` for a model that is no embedder, or one that is not supported."""
        self.name = snapshot.name
        self._snapshot = snapshot
        self._recipe = embedder_recipe(snapshot)
        self.dimension = self._recipe.dimension
        self._loading = threading.Lock()
        self._running = {False: threading.Semaphore(1), True: threading.Semaphore(available_processors())}
        """The key says whether the texts are queries."""
        self._loaded: _Pooled | None = None
        self._queries = QueryCache()

    def embed(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        """``(len(texts), dimension) float32``. Raises :class:`ConfigError` when the files are not those that were
        pulled, and :class:`sage.errors.MissingExtra`."""
        if query:
            return self._queries.embed(texts, lambda missing: self._embed(missing, query))
        return self._embed(texts, query)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """The tokens that are computed for ``texts`` as documents."""
        model, prompt = self._model(), self._recipe.document_prompt
        return sum(len(model.model.encode(prompt + text).ids) for text in texts)

    def _embed(self, texts: Sequence[str], query: bool) -> Vectors:
        model = self._model()
        vectors = np.empty((len(texts), self.dimension or 0), np.float32)
        prompt = self._recipe.query_prompt if query else self._recipe.document_prompt
        for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
            encodings = [model.model.encode(prompt + text) for text in texts[start : start + _TOKENIZED_AT_ONCE]]
            for batch in token_batches([len(encoding.ids) for encoding in encodings]):
                with self._running[query]:
                    made = model.vectors([encodings[index] for index in batch])
                vectors[[start + index for index in batch]] = made
        return vectors

    def _model(self) -> _Pooled:
        if self._loaded is None:
            with self._loading:
                if self._loaded is None:
                    loaded = _Pooled(self._snapshot, self._recipe)
                    self.dimension = loaded.dimension
                    self._loaded = loaded
        return self._loaded


class _Pooled:
    """The model in memory, and how its tokens' vectors become one."""

    def __init__(self, snapshot: Snapshot, recipe: EmbedderRecipe) -> None:
        self.model = OnnxModel(snapshot, recipe.input)
        self._recipe = recipe
        of_tokens = next((name for name in _TOKEN_OUTPUTS if name in self.model.outputs), None)
        self._pools = of_tokens is not None
        if not self._pools and _TEXT_OUTPUT not in self.model.outputs:
            raise snapshot.fault(f"its graph has no output {', '.join((*_TOKEN_OUTPUTS, _TEXT_OUTPUT))}")
        self._output = of_tokens or _TEXT_OUTPUT
        self._snapshot = snapshot
        self.dimension = recipe.dimension or len(self.vectors([self.model.encode("a")])[0])

    def vectors(self, encodings: Sequence[object]) -> Vectors:
        values, mask = self.model.run(encodings, self._output)
        dimension = self._recipe.dimension or values.shape[-1]
        if values.ndim != (3 if self._pools else 2) or values.shape[-1] != dimension:
            raise self._snapshot.fault(f"its graph gives {values.shape}, not vectors of {dimension} dimensions")
        pooled = _pooled(values, mask, self._recipe.pooling) if self._pools else values
        if self._recipe.normalize:
            pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        if not np.isfinite(pooled).all():
            raise self._snapshot.fault("it gave a number that is not finite")
        result: Vectors = pooled
        return result


def _pooled(values: Vectors, mask: NDArray[np.int64], pooling: str) -> Vectors:
    """One vector a text of those of its tokens, ``(texts, tokens, dimension)``."""
    if pooling == "cls":
        first: Vectors = values[:, 0]
        return first
    if pooling == "lasttoken":
        last: Vectors = values[np.arange(len(values)), mask.sum(axis=1) - 1]
        return last
    if pooling == "max":
        highest: Vectors = np.where(mask[:, :, None] == 1, values, -np.inf).max(axis=1)
        return highest
    weights = mask.astype(np.float32)
    sums: Vectors = np.matmul(weights[:, None, :], values)[:, 0, :]
    sums /= weights.sum(axis=1, keepdims=True)
    return sums
