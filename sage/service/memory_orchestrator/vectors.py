"""What makes vectors of memories and of questions about them, as far as it can be believed."""

from __future__ import annotations

import logging
from typing import Any

from sage.errors import DeadlineExceeded, InvalidRequest, RateLimited, Unavailable, UpstreamFailed

_PASSING = (UpstreamFailed, Unavailable, DeadlineExceeded, RateLimited)
"""Failures of an embedder under which a search goes on by words."""
_log = logging.getLogger(__name__)


class Vectors:
    """``embedder``: ``auto`` (the local model when it is installed), ``none``, ``local``, ``provider/model``, or a
    callable from texts to ``(n, dim) float32``."""

    def __init__(self, embedder: Any, models: Any) -> None:
        from sage.middleware.retrieval.embedding.registry import FUNCTION, ModelsByName

        named = embedder is None or isinstance(embedder, str)
        known = ModelsByName(None if named else embedder, models)
        self._embedder = known.embedder((embedder or "none") if named else FUNCTION)
        self.reranker = known.reranker

    @property
    def name(self) -> str | None:
        return None if self._embedder is None else self._embedder.name

    def of(self, content: str) -> list[float] | None:
        """Of a memory's own content. Raises what the embedder raises: nothing is stored then."""
        if self._embedder is None:
            return None
        vector: list[float] = self._embedder.embed([content])[0].tolist()
        return vector

    def of_query(self, query: str) -> tuple[list[float] | None, float | None, str | None]:
        """The query's vector, its weight (``None``: the engine's own) and a warning. In a language that the embedder
        does not speak, words weigh more."""
        from sage.middleware.retrieval.text.languages import share_spoken

        if self._embedder is None:
            return None, None, None
        try:
            vector: list[float] = self._embedder.embed([query], query=True)[0].tolist()
        except _PASSING as exc:
            _log.warning("a search in memories goes by words alone: %s", exc)
            return None, None, f"searched by words alone, since the query could not be embedded: {exc.message}"
        spoken = share_spoken(query, self._embedder.languages)
        return vector, None if spoken >= 1 else 0.5 * spoken, None


def without_signs(query: str) -> str:
    """``query`` as words alone: who asks a memory means no search by a quotation or a dash."""
    words = (word.strip("\"'“”„「」『』").lstrip("+-＋－") for word in query.split())
    told = " ".join(word for word in words if word)
    if not told:
        raise InvalidRequest("'query' has no words to search for", param="query")
    return told
