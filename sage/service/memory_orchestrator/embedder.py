"""Vectors of memories and of queries, and what to do when the embedder fails or does not speak the language."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from sage.errors import DeadlineExceeded, InvalidRequest, RateLimited, Unavailable, UpstreamFailed
from sage.middleware.retrieval.embedding.registry import FUNCTION, ModelsByName
from sage.middleware.retrieval.text.languages import share_spoken

_TEMPORARY = (UpstreamFailed, Unavailable, DeadlineExceeded, RateLimited)
"""Failures of an embedder on which a search continues by keywords."""
_MAX_WEIGHT = 0.5
_log = logging.getLogger(__name__)


class QueryVector(NamedTuple):
    """``vector=None``: search by keywords alone. ``weight=None``: the engine's own weight of vectors."""

    vector: Sequence[float] | None = None
    weight: float | None = None
    warning: str | None = None


class MemoryEmbedder:
    """``embedder`` is ``auto`` (the local model when it is installed), ``none``, ``local``, ``provider/model``, or a
    callable from texts to ``(n, dim) float32``."""

    def __init__(self, embedder: Any, models: Any) -> None:
        is_name = embedder is None or isinstance(embedder, str)
        by_name = ModelsByName(None if is_name else embedder, models)
        self._embedder = by_name.embedder((embedder or "none") if is_name else FUNCTION)
        self.reranker = by_name.reranker

    @property
    def name(self) -> str | None:
        return None if self._embedder is None else self._embedder.name

    def embed_content(self, content: str) -> list[float] | None:
        """The vector of a memory's own content; ``None`` without an embedder. Raises what the embedder raises: then
        nothing is stored."""
        if self._embedder is None:
            return None
        vector: list[float] = self._embedder.embed([content])[0].tolist()
        return vector

    def embed_query(self, query: str) -> QueryVector:
        """In a language that the embedder does not speak, the vector weighs less than the keywords."""
        if self._embedder is None:
            return QueryVector()
        try:
            vector: list[float] = self._embedder.embed([query], query=True)[0].tolist()
        except _TEMPORARY as exc:
            _log.warning("a search in memories uses keywords alone: %s", exc)
            return QueryVector(warning=f"searched by words alone, since the query could not be embedded: {exc.message}")
        spoken = share_spoken(query, self._embedder.languages)
        return QueryVector(vector, None if spoken >= 1 else _MAX_WEIGHT * spoken)


def without_operators(query: str) -> str:
    """``query`` as words alone, without quotation marks and leading ``+`` or ``-``: in a question to a memory these
    are punctuation, not operators of a search."""
    words = (word.strip("\"'“”„「」『』").lstrip("+-＋－") for word in query.split())
    plain_text = " ".join(word for word in words if word)
    if not plain_text:
        raise InvalidRequest("'query' has no words to search for", param="query")
    return plain_text
