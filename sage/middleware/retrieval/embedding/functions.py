"""A callable of the user as an embedder."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.errors import InvalidRequest
from sage.middleware.retrieval.embedding.protocols import EmbedFunction

FUNCTION_PREFIX = "function/"
"""How the names of callables begin among those of embedders."""


class FunctionEmbedder:
    """``function`` as an :class:`~sage.middleware.retrieval.embedding.protocols.Embedder`.

    It takes a list of texts and returns ``(n, dimension)`` finite numbers: one row a text, always with as many columns.
    It is called from several threads if searches are.

    A durable store keeps the function's name (``name``, or ``function/module.qualname``) and its dimension, and
    refuses a function of another: no more can be checked. Its owner must make sure that a function of the
    same name still makes the same vectors: give it a ``name`` that contains its model, and a new one with a new model.
    """

    languages: frozenset[str] | None = None

    def __init__(self, function: EmbedFunction, name: str | None = None) -> None:
        self._function = function
        self.name = f"{FUNCTION_PREFIX}{name or _name_of(function)}"
        self.dimension: int | None = None

    def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """Raises :class:`sage.errors.InvalidRequest` for a result of another shape or with numbers that are not
        finite, and what the function raises."""
        del query  # the function gets texts only
        if not texts:
            return np.empty((0, self.dimension or 0), np.float32)
        vectors = checked_vectors(self._function(list(texts)), len(texts), self.name, self.dimension)
        self.dimension = vectors.shape[1]
        return vectors


def checked_vectors(result: Any, count: int, name: str, dimension: int | None) -> NDArray[np.float32]:
    """``result`` as ``(count, dimension) float32`` of finite numbers. Raises :class:`InvalidRequest`."""
    try:
        array = np.asarray(result)
    except ValueError:  # rows of several lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "fiu":
        raise _invalid_result(name, "must give an array of numbers, with rows of one length")
    if array.ndim != 2 or array.shape[0] != count or not array.shape[1]:
        raise _invalid_result(
            name, f"must give one vector a text, an array of shape ({count}, dimension), not {array.shape}"
        )
    if dimension is not None and array.shape[1] != dimension:
        raise _invalid_result(name, f"gave vectors of {array.shape[1]} dimensions, and of {dimension} before")
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise _invalid_result(name, f"gave a number that is not finite as float32 (for text {row} of {count})")
    return vectors


def _invalid_result(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"the embedder '{name}' {what}", param="embedder", code="embedder_nonsense")


def _name_of(function: Any) -> str:
    """``module.qualname`` of a function or method, or of a callable object's class; of a ``partial``, that of what it
    calls."""
    while isinstance(function, functools.partial):
        function = function.func
    owner = function if hasattr(function, "__qualname__") else type(function)
    return f"{owner.__module__}.{owner.__qualname__}"
