"""A cross-encoder from a hub as a reranker."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from sage.middleware.hub.snapshots import Snapshot
from sage.middleware.retrieval.embedding.hub.onnx_model import OnnxModel
from sage.middleware.retrieval.embedding.hub.recipe import reranker_recipe
from sage.middleware.retrieval.embedding.token_batches import token_batches
from sage.processors import available_processors


class HubReranker:
    """A :class:`~sage.middleware.retrieval.embedding.protocols.Reranker`, on its caller's thread: one batch of pairs
    for each core. The model is read with the first query."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Raises :class:`ConfigError` for a model that does not rerank."""
        self.name = snapshot.name
        self._snapshot = snapshot
        self._input = reranker_recipe(snapshot)
        self._loading = threading.Lock()
        self._running = threading.Semaphore(available_processors())
        self._loaded: OnnxModel | None = None

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score a text, between 0 and 1. Of a query and a text that are too long together, the longer one is cut.

        Raises :class:`ConfigError` when the files are not those that were pulled.
        """
        model = self._model()
        encodings = [model.encode(query, text) for text in texts]
        scores = np.empty(len(texts), np.float64)
        for batch in token_batches([len(encoding.ids) for encoding in encodings]):
            with self._running:
                scores[batch] = self._scores(model, [encodings[index] for index in batch])
        return [float(score) for score in scores]

    def count_tokens(self, query: str, texts: Sequence[str]) -> int:
        """The tokens that are computed for ``texts``."""
        model = self._model()
        return sum(len(model.encode(query, text).ids) for text in texts)

    def _scores(self, model: OnnxModel, encodings: Sequence[object]) -> np.ndarray:
        values, _ = model.run(encodings, model.outputs[0])
        if values.size != len(encodings):
            raise self._snapshot.fault(f"its graph gives {values.shape}, not one score a text")
        if not np.isfinite(values).all():
            raise self._snapshot.fault("it gave a score that is not finite")
        return 1.0 / (1.0 + np.exp(-values.reshape(-1).astype(np.float64)))

    def _model(self) -> OnnxModel:
        if self._loaded is None:
            with self._loading:
                if self._loaded is None:
                    self._loaded = OnnxModel(self._snapshot, self._input)
        return self._loaded
