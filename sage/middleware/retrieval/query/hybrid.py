"""The order of a search, such that a page is a slice of one list however long it is asked for.

A hybrid search fuses the best :data:`FIRST` of each leg. Who pages beyond them gets the next tier, twice as deep,
further ones four times each: what is new in it, on the scales of the first, and never above what was placed before. So
the order of a tier does not depend on how much was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Mask
from sage.middleware.retrieval.keywords.search import Hits
from sage.middleware.retrieval.query.fusion import Scale, fit, reciprocal_ranks, weights
from sage.middleware.retrieval.text.query_syntax import KeywordQuery
from sage.middleware.retrieval.types.search import Fusion, Search

FIRST = 50
"""Candidates of each leg in the first tier: of 30 to 100, 50 serves best on SciFact and CMRC2018, and as the vectors of
each candidate are read, 100 costs nearly twice as much."""
_DEEPER = 4
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RankedPage:
    """A page of rows; of ``dense`` and ``bm25``, NaN is no score."""

    rows: Rows
    scores: Floats
    dense: Floats | None
    bm25: Floats | None
    total: int
    explanations: list[dict[str, Any]] | None = None


class KeywordSource(Protocol):
    """What is asked of the keyword leg: ``KeywordLeg`` over a view, or what shards have found together."""

    def top(self, query: KeywordQuery, k: int, allowed: Sequence[Mask | None]) -> Hits: ...

    def scores(self, query: KeywordQuery, rows: Rows) -> Floats: ...

    def matched(self, query: KeywordQuery, rows: Rows) -> list[dict[str, float]]: ...

    def coverage(self, query: KeywordQuery, rows: Rows) -> Floats: ...


class DenseSource(Protocol):
    """What is asked of the dense leg: ``DenseLeg`` over a view, or what shards have found together."""

    def top(
        self, vector: Vector, k: int, allowed: Sequence[Mask | None], exact: bool = False
    ) -> tuple[Rows, Floats, int]: ...

    def top_and(
        self, others: Rows, vector: Vector, k: int, allowed: Sequence[Mask | None], exact: bool = False
    ) -> tuple[Rows, Floats, int, Floats]: ...


@dataclass(frozen=True, slots=True)
class Legs:
    """Both legs with what they are asked."""

    keywords: KeywordSource
    dense: DenseSource
    query: KeywordQuery
    vector: Vector | None
    allowed: Sequence[Mask | None]
    exact: bool

    def by_keywords(self, search: Search) -> RankedPage:
        """By words alone."""
        hits = self.keywords.top(self.query, search.offset + search.top_k, self.allowed)
        rows, scores = hits.rows[search.offset :], hits.scores[search.offset :]
        explained = None
        if search.explain:
            matched = self.keywords.matched(self.query, rows)
            explained = [{"bm25": _leg(score, score, 1.0, terms)} for score, terms in zip(scores, matched, strict=True)]
        return RankedPage(rows, scores, None, scores, hits.total, explained)

    def by_vectors(self, search: Search) -> RankedPage:
        """By vectors alone."""
        if self.vector is None:  # no document has one yet
            none = np.empty(0)
            return RankedPage(np.empty(0, np.int64), none, none, None, 0, [] if search.explain else None)
        rows, scores, total = self.dense.top(self.vector, search.offset + search.top_k, self.allowed, exact=self.exact)
        rows, scores = rows[search.offset :], scores[search.offset :]
        explained = [{"dense": _leg(score, score, 1.0)} for score in scores] if search.explain else None
        return RankedPage(rows, scores, scores, None, total, explained)


@dataclass(frozen=True, slots=True)
class _Scales:
    """How both legs are scaled and weighted, as the first tier decides."""

    kind: Fusion
    dense: Scale
    keywords: Scale
    dense_weight: float
    keywords_weight: float


@dataclass(frozen=True, slots=True)
class _Tier:
    rows: Rows
    scores: Floats
    dense: Floats
    keywords: Floats
    dense_scaled: Floats
    keywords_scaled: Floats

    def take(self, places: Any) -> _Tier:
        return _Tier(*(getattr(self, column.name)[places] for column in fields(self)))


def fused(
    legs: Legs, search: Search, dense_weight: float, unvectored: Callable[[], list[Mask | None] | None]
) -> RankedPage:
    """By both. ``unvectored``: of each segment the allowed documents without a vector; ``None``: there are none."""
    wanted, depth = search.offset + search.top_k, FIRST
    scales: _Scales | None = None
    tiers: list[_Tier] = []
    placed = 0
    while True:
        tier, totals, scales = _tier(legs, search, depth, tiers, scales, dense_weight)
        tiers.append(tier)
        placed += len(tier.rows)
        if placed >= wanted or depth >= max(totals):
            break
        depth *= _DEEPER if depth > FIRST else 2
    whole = _joined(tiers).take(slice(search.offset, wanted))
    dense_total, keywords_total = totals
    total = dense_total
    if keywords_total and (without := unvectored()) is not None:
        total += legs.keywords.top(legs.query, 1, without).total
    return RankedPage(
        whole.rows,
        whole.scores,
        whole.dense,
        whole.keywords,
        total,
        _explained(legs, scales, whole) if search.explain else None,
    )


def _tier(
    legs: Legs, search: Search, depth: int, before: Sequence[_Tier], scales: _Scales | None, dense_weight: float
) -> tuple[_Tier, tuple[int, int], _Scales]:
    """What the best ``depth`` of each leg add, in order; and how many documents each leg has in all."""
    assert legs.vector is not None
    hits = legs.keywords.top(legs.query, depth, legs.allowed)
    dense_rows, dense_scores, dense_total, others = legs.dense.top_and(
        hits.rows, legs.vector, depth, legs.allowed, legs.exact
    )
    rows = np.union1d(dense_rows, hits.rows)
    for tier in before:
        rows = rows[~np.isin(rows, tier.rows)]
    dense = complete(rows, np.concatenate([dense_rows, hits.rows]), np.concatenate([dense_scores, others]))
    keywords = complete(rows, hits.rows, hits.scores, lambda missing: legs.keywords.scores(legs.query, missing))
    if scales is None:
        coverage = legs.keywords.coverage(legs.query, hits.rows[:FIRST])
        best = float(coverage.max()) if coverage.size else 0.0
        scales = _Scales(
            search.fusion,
            fit(search.fusion, dense),
            fit(search.fusion, keywords, floor=0.0),
            *weights(search.alpha, dense_weight, best),
        )
    tier = _scored(rows, dense, keywords, scales, before)
    return tier, (dense_total, hits.total), scales


def _scored(rows: Rows, dense: Floats, keywords: Floats, scales: _Scales, before: Sequence[_Tier]) -> _Tier:
    if scales.kind is Fusion.RRF:
        placed = sum(len(tier.rows) for tier in before)
        dense_scaled, keywords_scaled = (reciprocal_ranks(scores, rows, placed) for scores in (dense, keywords))
    else:
        dense_scaled, keywords_scaled = scales.dense(dense), scales.keywords(keywords)
    scores = scales.dense_weight * dense_scaled + scales.keywords_weight * keywords_scaled
    for tier in before:
        if len(tier.scores):
            scores = np.minimum(scores, tier.scores[-1])
    order = np.lexsort((rows, -scores))
    return _Tier(rows, scores, dense, keywords, dense_scaled, keywords_scaled).take(order)


def complete(rows: Rows, known: Rows, scores: Floats, ask: Callable[[Rows], Floats] | None = None) -> Floats:
    """The score of each row: ``known`` ones have theirs, the others are asked for."""
    found = np.full(len(rows), np.nan)
    order = np.argsort(known)
    place = np.searchsorted(known, rows, sorter=order)
    there = place < len(known)
    there[there] = known[order[place[there]]] == rows[there]
    found[there] = scores[order[place[there]]]
    if ask is not None and not there.all():
        found[~there] = ask(rows[~there])
    return found


def _joined(tiers: Sequence[_Tier]) -> _Tier:
    if len(tiers) == 1:
        return tiers[0]
    return _Tier(*(np.concatenate([getattr(tier, column.name) for tier in tiers]) for column in fields(_Tier)))


def _explained(legs: Legs, scales: _Scales, found: _Tier) -> list[dict[str, Any]]:
    """``ceiling``: beyond the first tier, the score of the last before it, where the sum of both legs is above that."""
    sums = scales.dense_weight * found.dense_scaled + scales.keywords_weight * found.keywords_scaled
    matched = legs.keywords.matched(legs.query, found.rows)
    return [
        {
            "fusion": scales.kind.value,
            "dense": _leg(found.dense[place], found.dense_scaled[place], scales.dense_weight),
            "bm25": _leg(found.keywords[place], found.keywords_scaled[place], scales.keywords_weight, matched[place]),
            **({"ceiling": float(found.scores[place])} if sums[place] > found.scores[place] else {}),
        }
        for place in range(len(found.rows))
    ]


def _leg(raw: float, scaled: float, weight: float, terms: dict[str, float] | None = None) -> dict[str, Any]:
    """What one leg has to say: the score is the sum of ``weight * normalised`` over both."""
    said: dict[str, Any] = {
        "score": None if np.isnan(raw) else float(raw),
        "normalised": float(scaled),
        "weight": float(weight),
    }
    if terms is not None:
        said["terms"] = terms
    return said
