"""The order of recalled memories, beyond that of the search engine: reranking, recency, importance and diversity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from sage.middleware.retrieval.embedding.protocols import Reranker
from sage.service.memory_orchestrator.query import MemoryQuery
from sage.service.memory_orchestrator.records import MemoryRecord, importance_of

HALF_LIFE = 30 * 86400.0
"""Seconds after which a memory counts half as recent."""


@dataclass
class RecalledMemory:
    """A result of a search. ``parts`` explain its score. ``relevance`` is 0 to 1, and comparable between questions."""

    record: MemoryRecord
    score: float
    relevance: float
    parts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self, *, explain: bool) -> dict[str, Any]:
        """``similarity_score`` is ``score`` by upstream SAGE's name."""
        fields = {
            **self.record.to_dict(), "score": self.score, "relevance": self.relevance, "similarity_score": self.score,
        }  # fmt: skip
        return {**fields, "explanation": self.parts} if explain else fields


def merged(searches: Sequence[Sequence[RecalledMemory]], limit: int) -> list[RecalledMemory]:
    """The results of several searches in turn, each memory once: the best of each, then the second of each, and so on.
    No score is above one before it."""
    found: dict[str, RecalledMemory] = {}
    for rank in range(max(map(len, searches), default=0)):
        for result in sorted((each[rank] for each in searches if rank < len(each)), key=lambda one: -one.score):
            found.setdefault(result.record.id, result)
    results = list(found.values())[:limit]
    for before, result in pairwise(results):
        result.score = min(before.score, result.score)
    return results


def rerank(results: list[RecalledMemory], text: str, reranker: Reranker) -> None:
    """Sorts by the reranker's scores of each memory's own content, without the turns before it."""
    scores = reranker.rerank(text, [result.record.content for result in results])
    for result, score in zip(results, scores, strict=True):
        result.score = result.parts["rerank"] = float(score)
    _sort(results)


def weigh(results: list[RecalledMemory], query: MemoryQuery, now: float) -> None:
    """Sorts by the weighted mean of the score (scaled to 0…1 among these results), recency and importance."""
    if not results:
        return
    scores = [result.score for result in results]
    low, span = min(scores), (max(scores) - min(scores)) or 1.0
    total_weight = 1.0 + query.recency + query.importance
    for result in results:
        scaled = (result.score - low) / span
        recency = math.exp2(-max(0.0, now - result.record.created) / HALF_LIFE)
        importance = importance_of(result.record)
        result.score = (scaled + query.recency * recency + query.importance * importance) / total_weight
        result.parts.update({"recency": recency, "importance": importance})
    _sort(results)


def _sort(results: list[RecalledMemory]) -> None:
    results.sort(key=lambda result: -result.score)


def diversify(
    results: Sequence[RecalledMemory], vectors: Sequence[Sequence[float] | None], weight: float, limit: int
) -> list[RecalledMemory]:
    """The first ``limit`` results by maximal marginal relevance (Carbonell and Goldstein, 1998): each next result is
    the one with the best score, less its likeness to those before it. ``weight``, 0 to 1, is that of the likeness;
    ``vectors`` are those of the results."""
    arrays = [None if vector is None else np.asarray(vector, np.float32) for vector in vectors]
    likeness = [0.0] * len(results)
    remaining, chosen = list(range(len(results))), list[int]()

    def marginal_relevance(index: int) -> float:
        return (1 - weight) * results[index].score - weight * likeness[index]

    while remaining and len(chosen) < limit:
        best = max(remaining, key=marginal_relevance)
        remaining.remove(best)
        chosen.append(best)
        results[best].parts["likeness"] = likeness[best]
        for index in remaining:
            likeness[index] = max(likeness[index], _cosine(arrays[best], arrays[index]))
    return [results[index] for index in chosen]


def _cosine(one: Any, other: Any) -> float:
    """0 where one of them has no vector."""
    if one is None or other is None:
        return 0.0
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm else 0.0
