"""Embedders and rerankers by name, for stores without a gateway."""

from __future__ import annotations

import importlib.metadata

from sage.errors import InvalidRequest
from sage.middleware.retrieval.embedding.builtin import builtin_embedder, is_builtin
from sage.middleware.retrieval.embedding.functions import FUNCTION_PREFIX, FunctionEmbedder
from sage.middleware.retrieval.embedding.protocols import Embedder, EmbedFunction, Models, Reranker

_ENTRY_POINT = "sage.search_models"
"""The entry point of a package that offers :class:`Models`."""
FUNCTION = "function"
"""The name in a collection's options for an embedder that is a callable."""


class ModelsByName:
    """The :class:`Models` of a store without a gateway: the built-in embedders, a callable (or an object that is an
    embedder already), and the models that were handed in."""

    def __init__(
        self, function: EmbedFunction | Embedder | None, models: Models | None, function_name: str | None = None
    ) -> None:
        """``function_name`` is what the callable is known by; ``None`` means by where it was written."""
        is_embedder = function is None or hasattr(function, "embed")
        if function_name is not None and (is_embedder or not isinstance(function_name, str) or not function_name):
            raise InvalidRequest(
                "'embedder_name' is a text by which a callable 'embedder' is known; other embedders have names",
                param="embedder_name",
            )
        self._function: Embedder | None = (
            function if is_embedder else FunctionEmbedder(function, function_name)  # type: ignore[assignment, arg-type]
        )
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
        """The models that were handed in, else those of the configuration, which the gateway offers by an entry point:
        retrieval does not import the gateway."""
        if self._models is None:
            entry_point = next(iter(importlib.metadata.entry_points(group=_ENTRY_POINT)), None)
            if entry_point is None:
                raise _no_models(name, param)
            self._models = entry_point.load()()
        return self._models


def embedder_mismatch(collection: str, made_by: str, spec: str, here: Embedder | None) -> InvalidRequest:
    """The error for vectors that were ``made_by`` another embedder than the one ``here``, to which ``spec`` leads."""
    name = here.name if here is not None else "no embedder"
    problem = f"the vectors of collection '{collection}' were made by '{made_by}', which '{spec}' is not here ({name})"
    if spec == FUNCTION and made_by.startswith(FUNCTION_PREFIX):
        function_name = made_by.removeprefix(FUNCTION_PREFIX)
        open_as = f"embedder=…, embedder_name='{function_name}'"
        advice = f"open it with the function that made them: VectorStore(…, {open_as})"
        if here is not None:
            advice = (
                f"if both make the same vectors, say so: VectorStore(…, {open_as}); else make them anew: "
                "store.collection.reembed('function')"
            )
    else:
        advice = f"bring it back, or make them anew: sage collections reembed {collection} EMBEDDER"
    return InvalidRequest(f"{problem}; {advice}", param="collection", code="embedder_mismatch")


def _no_models(name: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"'{name}' is a model of a gateway, and this store knows of none: hand it models=LLMService().search_models, "
        "or a function as its embedder",
        param=param,
    )
