"""Embedders and rerankers where there is no registry."""

from __future__ import annotations

import importlib.metadata

from sage.errors import InvalidRequest
from sage.middleware.retrieval.embedding.e5 import MULTILINGUAL, multilingual_embedder
from sage.middleware.retrieval.embedding.functions import FunctionEmbedder
from sage.middleware.retrieval.embedding.minilm import local_embedder
from sage.middleware.retrieval.embedding.protocols import Embedder, EmbedFunction, Models, Reranker

_OFFERED = "sage.search_models"
"""The entry point of who has models by name."""
FUNCTION = "function"
"""What a collection's options say of an embedder that is a callable."""


class KnownModels:
    """Models by name: the local embedder, a callable (or an embedder as it is), and what was handed in."""

    def __init__(self, function: EmbedFunction | Embedder | None, models: Models | None) -> None:
        own = function is None or hasattr(function, "embed")
        self._function: Embedder | None = function if own else FunctionEmbedder(function)  # type: ignore[assignment, arg-type]
        self._models = models

    def embedder(self, name: str) -> Embedder | None:
        if name == "none":
            return None
        if name == FUNCTION:
            return self._function
        if name in MULTILINGUAL:
            return multilingual_embedder()
        if name in ("auto", "local"):
            return local_embedder(optional=name == "auto")
        return self._named(name, "embedder").embedder(name)

    def reranker(self, name: str) -> Reranker:
        return self._named(name, "rerank").reranker(name)

    def _named(self, name: str, param: str) -> Models:
        """Those that were handed in, else those of the configuration: the gateway's own room offers them, which this
        one knows nothing of."""
        if self._models is None:
            offered = next(iter(importlib.metadata.entry_points(group=_OFFERED)), None)
            if offered is None:
                raise _no_models(name, param)
            self._models = offered.load()()
        return self._models


def _no_models(name: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{name}' is a model of a gateway, and this store knows of none: hand it models=LLMService().search_models, "
        "or a function as its embedder",
        param=param,
    )
