"""From a query to the best memories that its scope and filters let pass."""

from __future__ import annotations

from typing import Any

from sage.errors import InvalidRequest
from sage.middleware.retrieval.embedding.builtin import cosine_range
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.context.bonuses import by_context
from sage.service.memory_orchestrator.embedder import MemoryEmbedder, MemoryEmbedders, QueryVector, check_has_words
from sage.service.memory_orchestrator.query import MAX_LIMIT, MemoryQuery
from sage.service.memory_orchestrator.ranking import RecalledMemory, diversify, rerank, weigh
from sage.service.memory_orchestrator.records import MemoryRecord

MAX_QUERY = 16_000
"""Characters of a query that count."""
_POOL = 4
"""Times ``limit``: the candidates that recency, importance, diversity and reranking choose among."""
_MIN_POOL = 50
"""The candidates among which the turns around them, their sessions and speakers decide."""


def recall(
    collection: MemoryCollection, embedders: MemoryEmbedders, query: MemoryQuery, now: float
) -> list[RecalledMemory]:
    """Best first. Scores of a search by words are 0 to 1, made of keywords, vectors and what stands around a turn
    (:func:`by_context`); those of a search by vector alone are the scores of its metric. The threshold is one of
    relevance. Raises :class:`InvalidRequest`."""
    query.check()
    if query.threshold is not None and query.threshold > 1:
        return []
    limit = min(MAX_LIMIT, max(_MIN_POOL, _POOL * query.limit)) if query.is_reordered else query.limit
    results = _search(collection, embedders.of(query.scope.tenant, collection), query, limit, now)
    if query.rerank is not None and query.text is not None:
        rerank(results, query.text, embedders.reranker(query.rerank))
    if query.recency or query.importance:
        weigh(results, query, now)
    if query.diversity:
        ids = [result.record.id for result in results]
        stored = collection.find(query.scope.tenant, ids, vectors=True)
        vectors = [stored[id].vector if id in stored else None for id in ids]
        results = diversify(results, vectors, query.diversity, query.limit)
    return results[: query.limit]


def _search(
    collection: MemoryCollection, embedder: MemoryEmbedder, query: MemoryQuery, limit: int, now: float
) -> list[RecalledMemory]:
    text = None if query.text is None else query.text[:MAX_QUERY]
    if text is not None:
        check_has_words(text)
    target = _target(embedder, query, text)
    options: dict[str, Any] = {"syntax": "plain", **({"explain": True} if query.explain else {})}
    options["score_threshold"] = max(0.0, query.threshold or 0.0)  # also to be told the relevance
    if text is not None and query.session is None:
        options["group"] = "session"
    if query.vector is None:
        options["cosine_range"] = cosine_range(embedder.name)
    if target.weight is not None:
        options["alpha"] = target.weight
    tenant, where, warning = query.scope.tenant, query.where(now), target.warning
    pool = limit if text is None else max(limit, _MIN_POOL)
    try:
        hits = collection.search(tenant, text, target.vector, pool, where, options)
    except InvalidRequest as exc:
        if exc.code != "wrong_dimension" or query.vector is not None:
            raise
        warning = "searched by words alone: the memories have vectors of another embedder"
        hits = collection.search(tenant, text, None, pool, where, options)
    if text is not None:
        hits = by_context(hits, text, limit)
    return [_result(tenant, hit, query.explain, warning) for hit in hits]


def _target(embedder: MemoryEmbedder, query: MemoryQuery, text: str | None) -> QueryVector:
    if query.vector is None and text is not None:
        return embedder.embed_query(text)
    return QueryVector(query.vector)


def _result(tenant: str, hit: dict[str, Any], explain: bool, warning: str | None) -> RecalledMemory:
    parts = {"search": hit.get("search", hit["score"]), **hit["scores"], **hit.get("context", {})}
    if explain:
        parts["detail"] = hit.get("explanation")
        if warning is not None:
            parts["warning"] = warning
    return RecalledMemory(MemoryRecord.from_item(tenant, hit), float(hit["score"]), parts["relevance"], parts)
