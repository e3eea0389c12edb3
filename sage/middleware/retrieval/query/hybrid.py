"""The order of results, such that every page is a slice of one list, however long that becomes.

A hybrid search fuses the best :data:`FIRST` candidates of each leg: the first tier. A page beyond them needs the next
tier, which is twice as deep; each further one is four times as deep. A tier adds the candidates that are new in it, on
the scales of the first tier and never above an earlier one. So the order of a tier does not depend on how many results
were requested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Mask
from sage.middleware.retrieval.keywords.search import Hits
from sage.middleware.retrieval.query.estimates import Estimates, leaders
from sage.middleware.retrieval.query.fusion import Scale, fit, reciprocal_ranks, weights
from sage.middleware.retrieval.text.query_syntax import KeywordQuery
from sage.middleware.retrieval.types.search import Fusion, Search

FIRST = 50
"""Candidates of each leg in the first tier. Of 30 to 100, 50 gives the best results on SciFact and CMRC2018. As the
vector of each candidate is read, 100 costs nearly twice as much."""
_DEEPER = 4
Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RankedPage:
    """A page of rows. In ``dense`` and ``bm25``, NaN means no score."""

    rows: Rows
    scores: Floats
    dense: Floats | None
    bm25: Floats | None
    total: int
    explanations: list[dict[str, Any]] | None = None
    relevance: Floats | None = None
    """Of a search with a threshold."""
    coverage: Floats | None = None
    """The share of the query that each document holds, where it was computed."""


class KeywordSource(Protocol):
    """The keyword leg: ``KeywordLeg`` over a view, or the candidates of all shards."""

    def top(self, query: KeywordQuery, k: int, allowed: Sequence[Mask | None]) -> Hits: ...

    def scored(self, query: KeywordQuery, rows: Rows) -> tuple[Floats, Floats]: ...

    def matched(self, query: KeywordQuery, rows: Rows) -> list[dict[str, float]]: ...

    def known(self, query: KeywordQuery) -> float: ...


class DenseSource(Protocol):
    """The dense leg: ``DenseLeg`` over a view, or the candidates of all shards."""

    def top(
        self, vector: Vector, k: int, allowed: Sequence[Mask | None], exact: bool = False
    ) -> tuple[Rows, Floats, int]: ...

    def top_and(
        self, others: Rows, vector: Vector, k: int, allowed: Sequence[Mask | None], exact: bool = False
    ) -> tuple[Rows, Floats, int, Floats]: ...

    def estimates(self, others: Rows, vector: Vector, k: int, allowed: Sequence[Mask | None]) -> Estimates | None: ...

    def few(self, vector: Vector, most: int, allowed: Sequence[Mask | None]) -> tuple[Rows, Floats] | None: ...


@dataclass(frozen=True, slots=True)
class Legs:
    """Both legs of a search, with what they search for."""

    keywords: KeywordSource
    dense: DenseSource
    query: KeywordQuery
    vector: Vector | None
    allowed: Sequence[Mask | None]
    exact: bool

    def by_keywords(self, search: Search) -> RankedPage:
        """A page by keywords alone."""
        hits = self.keywords.top(self.query, search.offset + search.top_k, self.allowed)
        rows, scores = hits.rows[search.offset :], hits.scores[search.offset :]
        explanations = None
        if search.explain:
            matched = self.keywords.matched(self.query, rows)
            explanations = [
                {"bm25": _leg(score, score, 1.0, terms)} for score, terms in zip(scores, matched, strict=True)
            ]
        return RankedPage(rows, scores, None, scores, hits.total, explanations)

    def by_vectors(self, search: Search) -> RankedPage:
        """A page by vectors alone."""
        if self.vector is None:  # no document has one yet
            no_scores = np.empty(0)
            return RankedPage(np.empty(0, np.int64), no_scores, no_scores, None, 0, [] if search.explain else None)
        rows, scores, total = self.dense.top(self.vector, search.offset + search.top_k, self.allowed, exact=self.exact)
        rows, scores = rows[search.offset :], scores[search.offset :]
        explanations = [{"dense": _leg(score, score, 1.0)} for score in scores] if search.explain else None
        return RankedPage(rows, scores, scores, None, total, explanations)


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
    coverage: Floats
    dense_scaled: Floats
    keywords_scaled: Floats

    def take(self, indices: Any) -> _Tier:
        return _Tier(*(getattr(self, column.name)[indices] for column in fields(self)))


Unvectored = Callable[[], list[Mask | None] | None]
"""Gives for each segment the allowed documents without a vector; ``None`` means that there are none."""


def fused(legs: Legs, search: Search, dense_weight: float, unvectored: Unvectored) -> RankedPage:
    """A page by both legs."""
    assert legs.vector is not None
    end = search.offset + search.top_k
    found = _of_few(legs, search, dense_weight)
    if found is None:
        hits = legs.keywords.top(legs.query, FIRST, legs.allowed)
        found = _bounded(legs, search, hits, end, dense_weight) or _by_tiers(legs, search, hits, end, dense_weight)
    page = found.page.take(slice(search.offset, end))
    total, scales = found.dense_total, found.scales
    keywords_total = found.keywords_total
    if keywords_total and (unvectored_masks := unvectored()) is not None:
        total += legs.keywords.top(legs.query, 1, unvectored_masks).total
    return RankedPage(
        page.rows,
        page.scores,
        page.dense,
        page.keywords,
        total,
        _explanations(legs, scales, page) if search.explain else None,
        coverage=page.coverage,
    )


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The best results in order, and how many documents each leg has in all."""

    page: _Tier
    dense_total: int
    keywords_total: int
    scales: _Scales


def _of_few(legs: Legs, search: Search, dense_weight: float) -> _Ranking | None:
    """All results, where so few documents are allowed that they are in the first tier anyhow; else ``None``."""
    assert legs.vector is not None
    few = legs.dense.few(legs.vector, FIRST, legs.allowed)
    if few is None:
        return None
    keywords, coverage = legs.keywords.scored(legs.query, few[0])
    has_vector, is_hit = ~np.isnan(few[1]), ~np.isnan(keywords)
    found = np.flatnonzero(has_vector | is_hit)
    rows, dense, keywords, coverage = few[0][found], few[1][found], keywords[found], coverage[found]
    scales = _scales(legs, search, dense_weight, dense, keywords, coverage[is_hit[found]])
    tier = _scored(rows, dense, keywords, coverage, scales, ())
    return _Ranking(tier, int(np.count_nonzero(has_vector)), int(np.count_nonzero(is_hit)), scales)


def _scales(
    legs: Legs, search: Search, dense_weight: float, dense: Floats, keywords: Floats, coverage_of_hits: Floats
) -> _Scales:
    """As the first tier decides, whose scores these are."""
    best, known = float(coverage_of_hits.max(initial=0.0)), legs.keywords.known(legs.query)
    return _Scales(
        search.fusion,
        fit(search.fusion, dense),
        fit(search.fusion, keywords, floor=0.0),
        *weights(search.alpha, dense_weight, best, known),
    )


def _bounded(legs: Legs, search: Search, hits: Hits, end: int, dense_weight: float) -> _Ranking | None:
    """The best ``end`` of the first tier, with only those vectors read that decide about them. ``None`` means that all
    have to be read."""
    assert legs.vector is not None
    if search.fusion is not Fusion.MINMAX or legs.exact or end > FIRST:
        return None
    estimates = legs.dense.estimates(hits.rows, legs.vector, FIRST, legs.allowed)
    if estimates is None:
        return None
    rows = estimates.rows
    is_hit = np.zeros(len(rows), np.bool_)
    is_hit[np.searchsorted(rows, hits.rows)] = True
    keywords, coverage = legs.keywords.scored(legs.query, rows)
    coverage_of_best = float(coverage[is_hit].max(initial=0.0))
    both = weights(search.alpha, dense_weight, coverage_of_best, legs.keywords.known(legs.query))
    best = leaders(estimates, keywords, is_hit, FIRST, end, both)
    if best is None:
        return None
    scales = _Scales(search.fusion, best.dense, best.keywords, *both)
    places = best.places
    tier = _scored(rows[places], estimates.scores[places], keywords[places], coverage[places], scales, ())
    return _Ranking(tier, estimates.total, hits.total, scales)


def _by_tiers(legs: Legs, search: Search, hits: Hits, end: int, dense_weight: float) -> _Ranking:
    """At least the best ``end``, if there are as many. ``hits`` are those of the first tier."""
    scales: _Scales | None = None
    tiers: list[_Tier] = []
    placed, depth = 0, FIRST
    while True:
        tier, dense_total, scales = _tier(legs, search, hits, depth, tiers, scales, dense_weight)
        tiers.append(tier)
        placed += len(tier.rows)
        if placed >= end or depth >= max(dense_total, hits.total):
            return _Ranking(_concatenated(tiers), dense_total, hits.total, scales)
        depth *= _DEEPER if depth > FIRST else 2
        hits = legs.keywords.top(legs.query, depth, legs.allowed)


def _tier(
    legs: Legs,
    search: Search,
    hits: Hits,
    depth: int,
    before: Sequence[_Tier],
    scales: _Scales | None,
    dense_weight: float,
) -> tuple[_Tier, int, _Scales]:
    """What the best ``depth`` of each leg add, in order; how many documents have a vector; and the scales."""
    assert legs.vector is not None
    dense_rows, dense_scores, dense_total, others = legs.dense.top_and(
        hits.rows, legs.vector, depth, legs.allowed, legs.exact
    )
    rows = np.union1d(dense_rows, hits.rows)
    for tier in before:
        rows = rows[~np.isin(rows, tier.rows)]
    dense = complete(rows, np.concatenate([dense_rows, hits.rows]), np.concatenate([dense_scores, others]))
    keywords, coverage = legs.keywords.scored(legs.query, rows)
    if scales is None:
        coverage_of_hits = coverage[np.isin(rows, hits.rows)]
        scales = _scales(legs, search, dense_weight, dense, keywords, coverage_of_hits)
    return _scored(rows, dense, keywords, coverage, scales, before), dense_total, scales


def _scored(
    rows: Rows, dense: Floats, keywords: Floats, coverage: Floats, scales: _Scales, before: Sequence[_Tier]
) -> _Tier:
    if scales.kind is Fusion.RRF:
        ranked_before = sum(len(tier.rows) for tier in before)
        dense_scaled, keywords_scaled = (reciprocal_ranks(scores, rows, ranked_before) for scores in (dense, keywords))
    else:
        dense_scaled, keywords_scaled = scales.dense(dense), scales.keywords(keywords)
    scores = scales.dense_weight * dense_scaled + scales.keywords_weight * keywords_scaled
    for tier in before:
        if len(tier.scores):
            scores = np.minimum(scores, tier.scores[-1])
    order = np.lexsort((rows, -scores))
    return _Tier(rows, scores, dense, keywords, coverage, dense_scaled, keywords_scaled).take(order)


def complete(rows: Rows, scored: Rows, scores: Floats) -> Floats:
    """The score of each row, which is in ``scores`` for those in ``scored``; NaN for the others."""
    result = np.full(len(rows), np.nan)
    order = np.argsort(scored)
    indices = np.searchsorted(scored, rows, sorter=order)
    is_scored = indices < len(scored)
    is_scored[is_scored] = scored[order[indices[is_scored]]] == rows[is_scored]
    result[is_scored] = scores[order[indices[is_scored]]]
    return result


def _concatenated(tiers: Sequence[_Tier]) -> _Tier:
    if len(tiers) == 1:
        return tiers[0]
    return _Tier(*(np.concatenate([getattr(tier, column.name) for tier in tiers]) for column in fields(_Tier)))


def _explanations(legs: Legs, scales: _Scales, page: _Tier) -> list[dict[str, Any]]:
    """``ceiling`` stands in results beyond the first tier whose legs have a higher sum: the last score of the tier
    before, which is theirs, too."""
    sums = scales.dense_weight * page.dense_scaled + scales.keywords_weight * page.keywords_scaled
    matched = legs.keywords.matched(legs.query, page.rows)
    return [
        {
            "fusion": scales.kind.value,
            "dense": _leg(page.dense[index], page.dense_scaled[index], scales.dense_weight),
            "bm25": _leg(page.keywords[index], page.keywords_scaled[index], scales.keywords_weight, matched[index]),
            **({"ceiling": float(page.scores[index])} if sums[index] > page.scores[index] else {}),
        }
        for index in range(len(page.rows))
    ]


def _leg(raw: float, scaled: float, weight: float, terms: dict[str, float] | None = None) -> dict[str, Any]:
    """What one leg contributes: the score of a document is the sum of ``weight * normalised`` over both legs."""
    explanation: dict[str, Any] = {
        "score": None if np.isnan(raw) else float(raw),
        "normalised": float(scaled),
        "weight": float(weight),
    }
    if terms is not None:
        explanation["terms"] = terms
    return explanation
