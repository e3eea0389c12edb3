"""From a search and a view to rows in order: masks, legs, completion, fusion, pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.filters.language import Filter, parse_filter
from sage.middleware.retrieval.index.view import Segment, View
from sage.middleware.retrieval.keywords.bm25 import QueryStatistics
from sage.middleware.retrieval.keywords.postings import Mask
from sage.middleware.retrieval.keywords.search import KeywordLeg
from sage.middleware.retrieval.query.dense import DenseLeg
from sage.middleware.retrieval.query.groups import group_scores
from sage.middleware.retrieval.query.hybrid import Legs, RankedPage
from sage.middleware.retrieval.query.relevance import RelevanceScale, ranked_page
from sage.middleware.retrieval.query.shard_candidates import CandidateRequest, Candidates, candidates
from sage.middleware.retrieval.query.unmet_signs import page_where_met
from sage.middleware.retrieval.store.store import DocumentStore
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.query_syntax import KeywordQuery, parse_query
from sage.middleware.retrieval.types.search import Search, mode_of

_SLICE = 4096


@dataclass(frozen=True, slots=True)
class Ranked:
    """One page. All arrays have one entry a result."""

    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]
    dense: NDArray[np.float64] | None
    """NaN means no vector, ``None`` that the dense leg was not used."""
    bm25: NDArray[np.float64] | None
    """NaN means that no term matches, ``None`` that the keyword leg was not used."""
    total: int
    explanations: list[dict[str, Any]] | None = None
    relevance: NDArray[np.float64] | None = None
    """Of a search with a threshold."""
    group: NDArray[np.float64] | None = None
    """Of a search with a ``group``."""
    warnings: tuple[str, ...] = ()


def ranked(numbers: NDArray[np.int64], page: RankedPage, warnings: tuple[str, ...] = ()) -> Ranked:
    """``page`` with the numbers of its documents."""
    return Ranked(
        numbers,
        page.scores,
        page.dense,
        page.bm25,
        page.total,
        page.explanations,
        page.relevance,
        warnings=warnings,
    )


class Searcher:
    """Ranks for one collection while it is open. Safe to call from several threads."""

    def __init__(self, store: DocumentStore, analyzer: Analyzer) -> None:
        self._store = store
        options = store.identity.options  # these never change
        self._metric, self._keywords = options.metric, options.keywords
        self._analyzer = analyzer
        self._last: tuple[View, KeywordLeg] | None = None

    def rank(
        self, view: View, search: Search, vector: NDArray[np.float32] | None, *, dense_weight: float = 1.0
    ) -> Ranked:
        """``search`` has been checked. ``vector`` is the query's, if there is one. ``dense_weight`` is 1, or less where
        the embedder does not know the query's language (0 means keywords alone)."""
        keywords = self._keyword_leg(view)
        scale = RelevanceScale.of(self._metric, self._store.recent.embedder, search)
        searched: list[Legs] = []

        def page_of(query: KeywordQuery) -> RankedPage:
            legs = self._legs(view, search, query, vector, keywords)
            searched.append(legs)
            mode = mode_of(search, query, vector is not None, dense_weight)
            unvectored = partial(self._unvectored, view, legs.allowed)
            return ranked_page(legs, search, mode, dense_weight, scale, unvectored)

        query = parse_query(search.query, self._analyzer, search.syntax)
        page, warnings = page_where_met(query, search.syntax, page_of)
        result = ranked(_numbers(view, page.rows), page, warnings)
        if search.group is None or not query.terms:
            return result
        allowed = searched[-1].allowed
        return replace(result, group=group_scores(view, keywords, query, allowed, search.group, page.rows))

    def query_statistics(self, view: View, terms: Sequence[str]) -> QueryStatistics:
        """This shard's share of the statistics with which all shards of a collection are searched."""
        return self._keyword_leg(view).query_statistics(terms)

    def candidates(self, view: View, request: CandidateRequest) -> Candidates:
        """This shard's share of an answer over all shards of a collection."""
        keywords = KeywordLeg(
            [(segment.keywords, segment.live) for segment in view.segments], self._keywords, request.query_statistics
        )
        legs = self._legs(view, request.search, request.query, request.search.vector, keywords)
        local = candidates(legs, request, partial(self._unvectored, view, legs.allowed))
        return replace(local, numbers=_numbers(view, local.numbers))

    def _legs(
        self,
        view: View,
        search: Search,
        query: KeywordQuery,
        vector: NDArray[np.float32] | None,
        keywords: KeywordLeg,
    ) -> Legs:
        dense = DenseLeg(view.segments, self._store, self._metric, view.generation)
        allowed = self._allowed(view, keywords, query, parse_filter(search.filter))
        return Legs(keywords, dense, query, vector, allowed, search.exact)

    def forget(self) -> None:
        """Drops the view that was searched last."""
        self._last = None

    def _keyword_leg(self, view: View) -> KeywordLeg:
        """The keyword leg of a view, cached with it: some of its statistics cost more than a search."""
        last = self._last
        if last is not None and last[0] is view:
            return last[1]
        leg = KeywordLeg([(segment.keywords, segment.live) for segment in view.segments], self._keywords)
        self._last = view, leg
        return leg

    def _allowed(
        self, view: View, keywords: KeywordLeg, query: KeywordQuery, condition: Filter | None
    ) -> list[Mask | None]:
        """Of each segment the live documents that filter and query let through; ``None``: all live ones."""
        masks: list[Mask | None] = [None] * len(view.segments)
        if condition is not None:
            masks = [segment.passing(condition) for segment in view.segments]
        constrained = keywords.constraint(query, self._analyzer, lambda rows: self._texts(view, rows), masks)
        return masks if constrained is None else [*constrained]

    def _texts(self, view: View, rows: Sequence[int]) -> list[str | None]:
        numbers = _numbers(view, np.asarray(rows, np.int64)).tolist()
        with self._store.reading() as reading:
            rows_by_number = reading.fetch(numbers)
        return [rows_by_number[number].text if number in rows_by_number else None for number in numbers]

    def _unvectored(self, view: View, allowed: Sequence[Mask | None]) -> list[Mask | None] | None:
        """Of each segment the allowed documents without a vector; ``None``: every document has one."""
        masks: list[Mask | None] = []
        for segment, mask in zip(view.segments, allowed, strict=True):
            present = segment.vectors.present if segment.vectors is not None else self._present(segment)
            without = np.zeros(segment.size, np.bool_) if present is None else ~present
            masks.append(segment.live_among(without if mask is None else without & mask))
        return masks if any(mask is not None and mask.any() for mask in masks) else None

    def _present(self, segment: Segment) -> Mask:
        """Which documents of a segment have a vector, by what the document store says."""
        with self._store.reading() as reading:
            slices = [
                reading.vectors(segment.numbers[start : start + _SLICE])[1] for start in range(0, segment.size, _SLICE)
            ]
        return np.concatenate(slices or [np.empty(0, np.bool_)])


def _numbers(view: View, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of the documents in these rows."""
    if len(view.segments) == 1:
        return view.segments[0].numbers[rows]
    numbers = np.empty(len(rows), np.int64)
    if not len(rows):
        return numbers
    starts = np.asarray(view.starts, np.int64)
    owners = np.searchsorted(starts, rows, side="right") - 1
    for owner in np.unique(owners).tolist():
        is_owned = owners == owner
        numbers[is_owned] = view.segments[owner].numbers[rows[is_owned] - starts[owner]]
    return numbers
