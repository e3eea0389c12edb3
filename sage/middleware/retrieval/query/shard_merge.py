"""From the candidates of shards to the order that one collection of all their documents would have.

The same code decides that order (:mod:`sage.middleware.retrieval.query.hybrid`): here its two legs are what the shards
answered. Every shard gives as many candidates of a leg as one collection would take of it, with exact scores on both
legs, so the best of all are among them, and scales, weights and pages come out alike. Of equal scores the lower number,
which is the older document, comes first: numbers are given out over all shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sage.middleware.retrieval.keywords.postings import Mask
from sage.middleware.retrieval.keywords.search import Hits
from sage.middleware.retrieval.query.hybrid import Floats, Legs, RankedPage, Rows
from sage.middleware.retrieval.query.relevance import RelevanceScale, ranked_page
from sage.middleware.retrieval.query.shard_candidates import Candidates
from sage.middleware.retrieval.text.query_syntax import KeywordQuery
from sage.middleware.retrieval.types.documents import Vector
from sage.middleware.retrieval.types.search import Mode, Search

MAX_SHARDS = 1024
Gather = Callable[[int], Sequence[Candidates | None]]
"""Asks every shard for so many candidates of each leg; ``None`` for one that does not answer."""


def rank(
    search: Search,
    mode: Mode,
    query: KeywordQuery,
    vector: Vector | None,
    dense_weight: float,
    scale: RelevanceScale,
    gather: Gather,
) -> RankedPage:
    """One page. :func:`place_of` says where the document of a row is. ``scale`` is for a search with a threshold."""
    pool = _CandidatePool(gather)
    legs = Legs(_ShardKeywords(pool), _ShardDense(pool), query, vector, (), search.exact)
    page = ranked_page(legs, search, mode, dense_weight, scale, lambda: None)
    return replace(page, total=pool.total)


def row_of(shard: int, number: int) -> int:
    """The row of a document over all shards: rows are in the order of numbers."""
    return number * MAX_SHARDS + shard


def place_of(row: int) -> tuple[int, int]:
    """``(shard, number)`` of a row: the inverse of :func:`row_of`."""
    return row % MAX_SHARDS, row // MAX_SHARDS


@dataclass(frozen=True, slots=True)
class _AllCandidates:
    """Candidates of all shards, in the order of rows."""

    rows: Rows
    dense: Floats
    keywords: Floats
    coverage: Floats
    matched: Sequence[Any]
    known: float
    with_vector: int
    with_keyword: int
    total: int

    @classmethod
    def of(cls, by_shard: Sequence[Candidates | None]) -> _AllCandidates:
        answers = [(shard, each) for shard, each in enumerate(by_shard) if each is not None]
        rows = _joined([each.numbers * MAX_SHARDS + shard for shard, each in answers], np.int64)
        order = np.argsort(rows, kind="stable")
        matched = [words for _, each in answers for words in each.matched or [{}] * len(each.numbers)]
        return cls(
            rows[order],
            _joined([each.dense for _, each in answers], np.float64)[order],
            _joined([each.keywords for _, each in answers], np.float64)[order],
            _joined([each.coverage for _, each in answers], np.float64)[order],
            [matched[index] for index in order.tolist()],
            max((each.known for _, each in answers), default=1.0),
            sum(each.with_vector for _, each in answers),
            sum(each.with_keyword for _, each in answers),
            sum(each.total for _, each in answers),
        )

    def best(self, scores: Floats, k: int) -> tuple[Rows, Floats]:
        """The ``k`` best of those that have a score, equal ones in the order of rows."""
        scored = np.flatnonzero(~np.isnan(scores))
        chosen = scored[np.argsort(-scores[scored], kind="stable")[:k]]
        return self.rows[chosen], scores[chosen]


class _CandidatePool:
    """The candidates so far. The shards are asked once for each depth."""

    def __init__(self, gather: Gather) -> None:
        self._gather = gather
        self._by_depth: dict[int, _AllCandidates] = {}
        self.total = 0
        self.known = 1.0

    def at(self, depth: int) -> _AllCandidates:
        if depth not in self._by_depth:
            self._by_depth[depth] = _AllCandidates.of(self._gather(depth))
            self.total, self.known = self._by_depth[depth].total, self._by_depth[depth].known
        return self._by_depth[depth]

    def look_up(self, rows: Rows, missing: float, column: Callable[[_AllCandidates], Floats]) -> Floats:
        """The latest entry of each row."""
        result = np.full(len(rows), missing)
        for each in self._by_depth.values():
            if len(each.rows):
                indices = np.minimum(np.searchsorted(each.rows, rows), len(each.rows) - 1)
                is_present = each.rows[indices] == rows
                result[is_present] = column(each)[indices[is_present]]
        return result

    def matched(self, rows: Rows) -> list[dict[str, float]]:
        by_row: dict[int, dict[str, float]] = {}
        for each in self._by_depth.values():
            by_row |= zip(each.rows.tolist(), each.matched, strict=True)
        return [dict(by_row[row]) for row in rows.tolist()]


class _ShardKeywords:
    """The keyword leg of all shards."""

    def __init__(self, pool: _CandidatePool) -> None:
        self._pool = pool

    def top(self, query: KeywordQuery, k: int, allowed: Sequence[Mask | None]) -> Hits:
        candidates = self._pool.at(k)
        return Hits(*candidates.best(candidates.keywords, k), candidates.with_keyword)

    def scored(self, query: KeywordQuery, rows: Rows) -> tuple[Floats, Floats]:
        scores = self._pool.look_up(rows, np.nan, lambda candidates: candidates.keywords)
        return scores, self._pool.look_up(rows, 0.0, lambda candidates: candidates.coverage)

    def known(self, query: KeywordQuery) -> float:
        return self._pool.known

    def matched(self, query: KeywordQuery, rows: Rows) -> list[dict[str, float]]:
        return self._pool.matched(rows)


class _ShardDense:
    """The dense leg of all shards."""

    def __init__(self, pool: _CandidatePool) -> None:
        self._pool = pool

    def top(
        self, vector: Vector, k: int, allowed: Sequence[Mask | None], exact: bool = False
    ) -> tuple[Rows, Floats, int]:
        candidates = self._pool.at(k)
        return *candidates.best(candidates.dense, k), candidates.with_vector

    def top_and(
        self, others: Rows, vector: Vector, k: int, allowed: Sequence[Mask | None], exact: bool = False
    ) -> tuple[Rows, Floats, int, Floats]:
        rows, scores, total = self.top(vector, k, allowed)
        return rows, scores, total, self._pool.look_up(others, np.nan, lambda candidates: candidates.dense)

    def estimates(self, others: Rows, vector: Vector, k: int, allowed: Sequence[Mask | None]) -> None:
        """There are none: shards answer with exact scores."""

    def few(self, vector: Vector, most: int, allowed: Sequence[Mask | None]) -> None:
        """Each shard knows how few it has."""


def _joined(arrays: Sequence[Any], kind: Any) -> Any:
    return np.concatenate([np.empty(0, kind), *arrays])
