"""From a question to memories: the best of those that the scope and the filters let through, in order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sage.errors import InvalidRequest
from sage.service.memory_orchestrator.collection import MemoryCollection
from sage.service.memory_orchestrator.records import (
    NEVER,
    MemoryRecord,
    MemoryScope,
    check_name,
    check_vector,
    importance_of,
)
from sage.service.memory_orchestrator.vectors import Vectors, without_signs

MAX_QUERY = 16_000
MAX_LIMIT = 1000
_POOL = 4
"""Times ``limit``: candidates that recency, importance and diversity choose among."""
HALF_LIFE = 30 * 86400.0
"""Seconds after which a memory counts half as recent."""


@dataclass(frozen=True)
class Question:
    """What is asked; weights are 0 to 1, of which 0 is off."""

    scope: MemoryScope
    query: str | None = None
    vector: Sequence[float] | None = None
    session: str | None = None
    type: str | None = None
    limit: int = 10
    threshold: float | None = None
    filter: Mapping[str, Any] | None = None
    as_of: float | None = None
    explain: bool = False
    recency: float = 0.0
    importance: float = 0.0
    diversity: float = 0.0
    rerank: str | None = None

    def check(self) -> None:
        """Raises :class:`InvalidRequest` that names the field at fault."""
        if self.query is None and self.vector is None:
            raise InvalidRequest("give 'query', 'vector' or both to search for", param="query")
        if self.query is not None and (not isinstance(self.query, str) or not self.query.strip()):
            raise InvalidRequest("'query' must be a text that says what to look for", param="query")
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidRequest(f"'limit' must be a whole number, 1 to {MAX_LIMIT}", param="limit")
        for name in ("recency", "importance", "diversity"):
            _check_number(getattr(self, name), name, 0, 1)
        for name in ("threshold", "as_of"):
            if getattr(self, name) is not None:
                _check_number(getattr(self, name), "score_threshold" if name == "threshold" else name, -1e18, 1e18)
        for name, value in (("session_id", self.session), ("memory_type", self.type)):
            if value is not None:
                check_name(value, name)
        check_vector(self.vector)
        if self.rerank is not None and (not isinstance(self.rerank, str) or self.query is None):
            raise InvalidRequest("'rerank' names a model and needs a 'query'", param="rerank")
        check_filter(self.filter)

    def where(self, now: float) -> dict[str, Any]:
        """What a memory must meet before the best are chosen."""
        conditions: dict[str, Any] = {**self.scope.filter(), "expires": {"$gt": now}}
        if self.as_of is None:
            conditions["superseded"] = {"$gte": NEVER}
        else:
            conditions["created"] = {"$lte": self.as_of}
            conditions["superseded"] = {"$gt": self.as_of}
        if self.session is not None:
            conditions["session"] = self.session
        if self.type is not None:
            conditions["type"] = self.type
        return {"$and": [conditions, _of_metadata(self.filter)]} if self.filter else conditions


def _check_number(value: Any, param: str, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidRequest(f"'{param}' must be a number, {least:g} to {most:g}", param=param)


def check_filter(given: Any) -> None:
    """Raises :class:`InvalidRequest` that names what is wrong with a filter over metadata."""
    from sage.middleware.retrieval.filters.language import parse_filter

    if given is not None and not isinstance(given, Mapping):
        raise InvalidRequest("'filter' must be an object", param="filter")
    _check_names(given)
    parse_filter(given, "filter")


def _check_names(given: Any) -> None:
    if isinstance(given, Mapping):
        for name, value in given.items():
            if not isinstance(name, str) or not name:
                raise InvalidRequest(f"'filter' has the field {name!r}; fields are named by texts", param="filter")
            if name == "$exists" or value is None or (isinstance(value, list | tuple) and None in value):
                raise InvalidRequest(
                    "'filter' asks for null or by '$exists'; memories are filtered by the values that they have",
                    param="filter",
                    code="unsupported_filter",
                )
            _check_names(value)
    elif isinstance(given, list | tuple):
        for one in given:
            _check_names(one)


def _of_metadata(given: Any) -> Any:
    """A filter over the caller's own metadata, which lies under ``meta``."""
    if isinstance(given, Mapping):
        return {
            name if name.startswith("$") else f"meta.{name}": _of_metadata(value) if name.startswith("$") else value
            for name, value in given.items()
        }
    return [_of_metadata(one) for one in given] if isinstance(given, list | tuple) else given


@dataclass
class RecalledMemory:
    """A memory that was found, with the parts of its score."""

    record: MemoryRecord
    score: float
    parts: dict[str, Any] = field(default_factory=dict)

    def shown(self, explain: bool) -> dict[str, Any]:
        shown = {**self.record.shown(), "score": self.score}
        return {**shown, "explanation": self.parts} if explain else shown


def recall(shelf: MemoryCollection, vectors: Vectors, question: Question, now: float) -> list[RecalledMemory]:
    """Best first. Scores of a hybrid search are completed min-max over both legs, 0 to 1; of a vector alone those of
    its metric."""
    question.check()
    chosen = question.recency or question.importance or question.diversity or question.rerank
    limit = min(MAX_LIMIT, max(50, _POOL * question.limit)) if chosen else question.limit
    found = _searched(shelf, vectors, question, limit, now)
    if question.rerank is not None:
        _rerank(vectors, found, question)
    if question.recency or question.importance:
        _weigh(found, question, now)
    if question.diversity:
        found = _diverse(shelf, found, question)
    least = question.threshold
    return [one for one in found if least is None or one.score >= least][: question.limit]


def _searched(
    shelf: MemoryCollection, vectors: Vectors, question: Question, limit: int, now: float
) -> list[RecalledMemory]:
    text = None if question.query is None else without_signs(question.query[:MAX_QUERY])
    vector, alpha, warning = question.vector, None, None
    if vector is None and text is not None:
        vector, alpha, warning = vectors.of_query(text)
    options: dict[str, Any] = {"explain": True} if question.explain else {}
    if alpha is not None and text is not None:
        options["alpha"] = alpha
    tenant, where = question.scope.tenant, question.where(now)
    try:
        results = shelf.search(tenant, text, vector, limit, where, options)
    except InvalidRequest as exc:
        if exc.code != "wrong_dimension" or question.vector is not None:
            raise
        warning = "searched by words alone: the memories have vectors of another embedder"
        results = shelf.search(tenant, text, None, limit, where, options)
    found = []
    for result in results:
        parts = {"relevance": result["score"], **(result.get("scores") or {})}
        if question.explain:
            parts["detail"] = result.get("explanation")
            if warning is not None:
                parts["warning"] = warning
        found.append(RecalledMemory(MemoryRecord.read(tenant, result), float(result["score"]), parts))
    return found


def _rerank(vectors: Vectors, found: list[RecalledMemory], question: Question) -> None:
    """By what each says alone, without the turns before it."""
    assert question.query is not None
    assert question.rerank is not None
    scores = vectors.reranker(question.rerank).rerank(question.query, [one.record.content for one in found])
    for one, score in zip(found, scores, strict=True):
        one.score = one.parts["rerank"] = float(score)
    found.sort(key=lambda one: -one.score)


def _weigh(found: list[RecalledMemory], question: Question, now: float) -> None:
    """Mixes relevance, scaled to 0…1 among these, with how recent and how important they are: a weighted mean."""
    if not found:
        return
    scores = [one.score for one in found]
    low, span = min(scores), (max(scores) - min(scores)) or 1.0
    whole = 1.0 + question.recency + question.importance
    for one in found:
        relevance = (one.score - low) / span
        age = max(0.0, now - one.record.created)
        recency = math.exp2(-age / HALF_LIFE)
        importance = importance_of(one.record)
        one.score = (relevance + question.recency * recency + question.importance * importance) / whole
        one.parts.update({"recency": recency, "importance": importance})
    found.sort(key=lambda one: -one.score)


def _diverse(shelf: MemoryCollection, found: list[RecalledMemory], question: Question) -> list[RecalledMemory]:
    """Maximal marginal relevance (Carbonell and Goldstein, 1998): each next one is worth its score less its likeness
    to those before it, weighed by ``diversity``."""
    vectors = [_vector_of(shelf, one.record) for one in found]
    left, taken = list(range(len(found))), list[int]()
    likeness = [0.0] * len(found)
    while left and len(taken) < question.limit:
        best = max(
            left, key=lambda place: (1 - question.diversity) * found[place].score - question.diversity * likeness[place]
        )
        left.remove(best)
        taken.append(best)
        found[best].parts["likeness"] = likeness[best]
        for place in left:
            likeness[place] = max(likeness[place], _cosine(vectors[best], vectors[place]))
    return [found[place] for place in taken]


def _vector_of(shelf: MemoryCollection, record: MemoryRecord) -> Any:
    whole = shelf.find(record.scope.tenant, record.id, vector=True)
    return None if whole is None or whole.vector is None else np.asarray(whole.vector, np.float32)


def _cosine(one: Any, other: Any) -> float:
    if one is None or other is None:
        return 0.0
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm else 0.0
