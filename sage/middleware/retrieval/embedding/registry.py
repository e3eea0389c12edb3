"""Embedders and rerankers where there is no registry."""

from __future__ import annotations

import importlib.metadata

from sage.errors import InvalidRequest
from sage.middleware.retrieval.embedding.builtin import builtin_embedder, is_builtin
from sage.middleware.retrieval.embedding.functions import FunctionEmbedder
from sage.middleware.retrieval.embedding.protocols import Embedder, EmbedFunction, Models, Reranker

_OFFERED = "sage.search_models"
"""The entry point of who has models by name."""
FUNCTION = "function"
"""What a collection's options say of an embedder that is a callable."""


class ModelsByName:
    """The :class:`Models` of a store without a gateway: the built-in embedders, a callable (or an object that is an
    embedder already), and the models that were handed in."""

    def __init__(self, function: EmbedFunction | Embedder | None, models: Models | None) -> None:
        own = function is None or hasattr(function, "embed")
        self._function: Embedder | None = function if own else FunctionEmbedder(function)  # type: ignore[assignment, arg-type]
        self._models = models

    def embedder(self, name: str) -> Embedder | None:
        if name == FUNCTION:
            return self._function
        if is_builtin(name):
            return builtin_embedder(name)
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
