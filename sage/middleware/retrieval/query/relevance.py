"""How relevant a result is, 0 to 1, on a scale that is the same for every question.

The scores of a hybrid search say only in which order the candidates of one question are. Relevance is made of what can
be compared between questions: the cosine of the vectors, and the share of the question's words that a document holds.
0 means that both have nothing in common, 1 that they say the same.

Cosines are calibrated: they are scaled from those of unrelated texts to those of texts that say the same, which differ
between embedders. With both legs, meaning counts two thirds and words one third: with more words, a common word of a
question for which there is nothing counts too much (area under the curve of answers against the best for questions
without an answer, thirty notes and SciFact: .998 and .934 with 2/3, .994 and .877 with 1/2, .780 and .629 with words).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.embedding.builtin import cosine_range
from sage.middleware.retrieval.query.hybrid import FIRST, Floats, Legs, RankedPage, Unvectored, fused
from sage.middleware.retrieval.types.search import Mode, Search
from sage.middleware.settings.retrieval import Metric

_MEANING = 2 / 3


@dataclass(frozen=True, slots=True)
class RelevanceScale:
    """``unrelated`` and ``same`` are the cosines that count as 0 and as 1."""

    metric: Metric
    unrelated: float = 0.0
    same: float = 1.0

    @classmethod
    def of(cls, metric: Metric, embedder: str | None, search: Search) -> RelevanceScale:
        """That of the embedder that made the vectors; what a search brings itself goes first."""
        return cls(metric, *(search.cosine_range or cosine_range(embedder)))

    def of_meaning(self, scores: Floats) -> Floats:
        """Of the scores of the dense leg. Inner products and distances count as those of vectors of length 1."""
        cosines = 1.0 - scores**2 / 2 if self.metric is Metric.EUCLIDEAN else scores
        return np.clip((cosines - self.unrelated) / (self.same - self.unrelated), 0.0, 1.0)

    def relevance(self, dense: Floats | None, coverage: Floats | None, dense_weight: float = 1.0) -> Floats:
        """``dense``: NaN means no vector. ``None`` stands for a leg that was not used, one of them at most. Meaning
        counts less with a ``dense_weight`` below 1."""
        if dense is None:
            assert coverage is not None
            return coverage
        meaning = self.of_meaning(dense)
        if coverage is None:
            return meaning
        share = _MEANING * dense_weight / (_MEANING * dense_weight + 1 - _MEANING)
        return np.where(np.isnan(meaning), coverage, share * meaning + (1 - share) * coverage)


def ranked_page(
    legs: Legs, search: Search, mode: Mode, dense_weight: float, scale: RelevanceScale, unvectored: Unvectored
) -> RankedPage:
    """The page of ``search``, by the legs that ``mode`` says. ``dense_weight`` is 1, or less where the embedder does
    not know the query's language; ``scale`` is for a search with a threshold; ``unvectored`` as for :func:`fused`."""

    def page_of(search: Search) -> RankedPage:
        if mode is Mode.HYBRID:
            return fused(legs, search, dense_weight, unvectored)
        return legs.by_vectors(search) if mode is Mode.DENSE else legs.by_keywords(search)

    if search.score_threshold is None:
        return page_of(search)
    return _relevant_page(page_of, legs, search, search.score_threshold, mode, scale, dense_weight)


def _relevant_page(
    page_of: Callable[[Search], RankedPage],
    legs: Legs,
    search: Search,
    threshold: float,
    mode: Mode,
    scale: RelevanceScale,
    dense_weight: float,
) -> RankedPage:
    """The page of ``search`` in the order of those results that are relevant enough.

    They are looked for as deep as there are some: among the first fifty results of the whole order, then among as many
    more as there were before, until these have none. So each page is a slice of one list. Meaning counts less with a
    ``dense_weight`` below 1, and so it does under an ``alpha`` below 1/2.
    """
    weight = dense_weight if search.alpha is None else min(1.0, 2 * search.alpha)
    end, depth = search.offset + search.top_k, FIRST
    while depth < end:
        depth *= 2
    while True:
        page = page_of(replace(search, offset=0, top_k=depth))
        coverage = page.coverage
        if coverage is None and mode is not Mode.DENSE:
            coverage = legs.keywords.scored(legs.query, page.rows)[1]
        relevance = scale.relevance(None if mode is Mode.BM25 else page.dense, coverage, weight)
        passing, is_all = _passing(relevance >= threshold)
        if is_all or len(passing) >= end or len(page.rows) < depth:
            break
        depth *= 2
    return _taken(page, relevance, passing[search.offset : end])


def _passing(relevant: NDArray[np.bool_]) -> tuple[NDArray[np.int64], bool]:
    """The relevant ones, up to the first stretch without any; and whether there was one."""
    start, end = 0, FIRST
    while start < len(relevant):
        if not relevant[start:end].any():
            return np.flatnonzero(relevant[:start]), True
        start, end = end, 2 * end
    return np.flatnonzero(relevant), False


def _taken(page: RankedPage, relevance: Floats, chosen: NDArray[np.int64]) -> RankedPage:
    def at(column: Floats | None) -> Any:
        return None if column is None else column[chosen]

    explanations = page.explanations and [page.explanations[index] for index in chosen.tolist()]
    return RankedPage(
        page.rows[chosen], at(page.scores), at(page.dense), at(page.bm25), page.total, explanations, relevance[chosen]
    )
