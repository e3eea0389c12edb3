"""A callable of the caller's own as an embedder."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.errors import InvalidRequest
from sage.middleware.retrieval.embedding.protocols import EmbedFunction


class FunctionEmbedder:
    """``function`` as an :class:`~sage.middleware.retrieval.embedding.protocols.Embedder`.

    It takes a list of texts and gives ``(n, dimension)`` finite numbers; one row a text, always as many columns. It is
    called from several threads when searches are.

    A durable store keeps the function's name (``name``, or ``function/module.qualname``) and its dimension, and
    refuses a function of another: that is all that can be checked. Whether an equally named function still makes the
    same vectors is its owner's word, so give it a ``name`` with its model in it, and a new one when the model changes.
    """

    languages: frozenset[str] | None = None

    def __init__(self, function: EmbedFunction, name: str | None = None) -> None:
        self._function = function
        self.name = f"function/{name or _name_of(function)}"
        self.dimension: int | None = None

    def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """Raises :class:`sage.errors.InvalidRequest` for an answer of another shape or with numbers that are not
        finite; what the function raises goes on as it is."""
        del query  # it is told texts alone
        if not texts:
            return np.empty((0, self.dimension or 0), np.float32)
        vectors = checked_vectors(self._function(list(texts)), len(texts), self.name, self.dimension)
        self.dimension = vectors.shape[1]
        return vectors


def checked_vectors(given: Any, count: int, name: str, dimension: int | None) -> NDArray[np.float32]:
    """``given`` as ``(count, dimension) float32`` of finite numbers."""
    try:
        wide = np.asarray(given)
    except ValueError:  # rows of several lengths
        wide = np.empty(0, object)
    if wide.dtype.kind not in "fiu":
        raise _wrong(name, "must give an array of numbers, with rows of one length")
    if wide.ndim != 2 or wide.shape[0] != count or not wide.shape[1]:
        raise _wrong(name, f"must give one vector a text, an array of shape ({count}, dimension), not {wide.shape}")
    if dimension is not None and wide.shape[1] != dimension:
        raise _wrong(name, f"gave vectors of {wide.shape[1]} dimensions, and of {dimension} before")
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(wide, dtype=np.float32)
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise _wrong(name, f"gave a number that is not finite as float32 (for text {row} of {count})")
    return vectors


def _wrong(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"the embedder '{name}' {what}", param="embedder", code="embedder_nonsense")


def _name_of(function: Any) -> str:
    """``module.qualname`` of a function or method, or of a callable object's class; of a ``partial``, that of what it
    calls."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
