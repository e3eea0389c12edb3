"""From searches to answers: their texts embedded together, ranked on one state, reranked, fetched from the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.errors import InvalidRequest, Unavailable
from sage.middleware.retrieval.embedding.protocols import Models
from sage.middleware.retrieval.index.index import Index
from sage.middleware.retrieval.index.view import View
from sage.middleware.retrieval.query.query_vectors import EmbedderOf, query_vectors
from sage.middleware.retrieval.query.reranking import reranked
from sage.middleware.retrieval.query.searcher import Ranked, Searcher
from sage.middleware.retrieval.query.shard_candidates import CandidateRequest, Candidates, Statistics
from sage.middleware.retrieval.query.turns import in_turn, turn
from sage.middleware.retrieval.store.store import DocumentStore, Identity
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.highlighter import Highlighter
from sage.middleware.retrieval.types.documents import Row, Vector
from sage.middleware.retrieval.types.search import Search, SearchAnswer, SearchResult, check_search
from sage.middleware.settings.retrieval import RetrievalLimits

_ATTEMPTS = 5
"""How often a page is ranked again because some of its documents were deleted meanwhile."""
_STEP = 128
"""Documents that are read from the store at a time."""


class Answerer:
    """Answers for one collection while it is open."""

    def __init__(
        self, store: DocumentStore, index: Index, analyzer: Analyzer, models: Models, limits: RetrievalLimits
    ) -> None:
        self._store = store
        self._index = index
        self._analyzer = analyzer
        self._searcher = Searcher(store, analyzer)
        self._models = models
        self._limits = limits

    def answer(self, searches: Sequence[Search], embedder_of: EmbedderOf) -> list[SearchAnswer]:
        """One answer a search. Raises :class:`InvalidRequest` before anything is embedded."""
        identity = self._store.recent
        for _ in range(_ATTEMPTS):
            try:
                answers = self._on_one_state(searches, identity, embedder_of)
            except InvalidRequest:
                answers = None  # it may only be wrong for the previous state of the collection
                if (latest := self._store.identity) == identity:
                    raise
            else:
                if answers is not None:
                    return answers
                latest = self._store.identity
            identity = latest
        raise Unavailable("the collection got new embedders several times during this search; try again later")

    def statistics(self, terms: Sequence[str]) -> Statistics:
        """The statistics of one shard: see :mod:`sage.middleware.retrieval.query.shard_candidates`."""
        view, identity = self._index.current(), self._store.identity
        query_statistics = self._searcher.query_statistics(view, terms)
        corpus = query_statistics.corpus
        return Statistics(corpus.documents, corpus.length, query_statistics.df, view.sequence, identity.dimension)

    def candidates(self, request: CandidateRequest) -> Candidates:
        """The best documents of one shard. Raises :class:`InvalidRequest`."""
        check_search(request.search, dimension=self._store.identity.dimension, max_results=self._limits.max_results)
        with turn():
            return self._searcher.candidates(self._index.current(), request)

    def fetch(self, numbers: Sequence[int]) -> dict[int, Row]:
        """The documents that still exist, without vectors. Raises :class:`InvalidRequest` when they are more than one
        answer may hold."""
        return self._fetch(list(numbers), self._limits.max_answer)

    def forget(self) -> None:
        """Drops what is cached between searches."""
        self._searcher.forget()

    def _on_one_state(
        self, searches: Sequence[Search], identity: Identity, embedder_of: EmbedderOf
    ) -> list[SearchAnswer] | None:
        """``None`` means that the vectors are no longer those of ``identity``."""
        for search in searches:
            check_search(search, dimension=identity.dimension, max_results=self._limits.max_results)
        queries = query_vectors(searches, identity, embedder_of, self._analyzer)
        view = self._index.current()
        if view.generation != identity.generation:
            return None
        if identity.dimension is None and view.documents and self._store.identity.dimension is not None:
            return None  # its first vector was just added
        budget = _AnswerBudget(self._limits.max_answer)
        return [self._one(search, *query, view, budget) for search, query in zip(searches, queries, strict=True)]

    def _one(
        self,
        search: Search,
        vector: Vector | None,
        weight: float,
        warnings: list[str],
        view: View,
        budget: _AnswerBudget,
    ) -> SearchAnswer:
        with turn() if search.rerank is None else nullcontext():
            return self._in_turn(search, vector, weight, warnings, view, budget)

    def _in_turn(
        self,
        search: Search,
        vector: Vector | None,
        weight: float,
        warnings: list[str],
        view: View,
        budget: _AnswerBudget,
    ) -> SearchAnswer:
        for attempt in range(_ATTEMPTS):
            rank = partial(self._searcher.rank, view, vector=vector, dense_weight=weight)
            if search.rerank is None:
                ranked, extra = rank(search), None
            else:
                fetch = partial(self._fetch, room=self._limits.max_answer)
                ranked, extra = reranked(search, self._models.reranker, in_turn(rank), in_turn(fetch))
            numbers = ranked.numbers.tolist()
            rows = self._fetch(numbers, budget.left)
            if len(rows) == len(numbers) or attempt == _ATTEMPTS - 1:
                break
            view = self._index.current()
        budget.take(rows.values())
        highlighter = Highlighter(self._analyzer, search.query, search.syntax) if search.highlight else None
        results = results_of(rows, ranked, extra, highlighter)
        return SearchAnswer(results, ranked.total, [*warnings, *ranked.warnings])

    def _fetch(self, numbers: list[int], room: int) -> dict[int, Row]:
        """Raises :class:`InvalidRequest` for more than ``room`` bytes of text and metadata."""
        rows: dict[int, Row] = {}
        with self._store.reading() as reading:
            for start in range(0, len(numbers), _STEP):
                slice_rows = reading.fetch(numbers[start : start + _STEP])
                rows |= slice_rows
                room -= _size(slice_rows.values())
                if room < 0:
                    raise answer_too_large(self._limits.max_answer)
        return rows


def answer_too_large(limit: int) -> InvalidRequest:
    """The error for an answer of more than ``most`` bytes of text and metadata."""
    return InvalidRequest(
        f"these results hold more than the {limit} bytes that one answer may (retrieval.limits.max_answer); "
        "ask for fewer, page by page",
        param="top_k",
        code="answer_too_large",
    )


class _AnswerBudget:
    """How many bytes of text and metadata the answers to one request may still hold."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, rows: Iterable[Row]) -> None:
        self.left -= _size(rows)


def _size(rows: Iterable[Row]) -> int:
    return sum(len(row.text) + len(row.metadata) for row in rows)


def results_of(
    rows: Mapping[int, Row], ranked: Ranked, reranked: Sequence[float | None] | None, highlighter: Highlighter | None
) -> list[SearchResult]:
    """The results of a page, without those that are not in ``rows`` (by number)."""
    columns: dict[str, list[float | None] | Sequence[float | None]] = {
        "dense": _column(ranked.dense, len(ranked.numbers)),
        "bm25": _column(ranked.bm25, len(ranked.numbers)),
    }
    if reranked is not None:
        columns["rerank"] = reranked
    if ranked.relevance is not None:
        columns["relevance"] = ranked.relevance.tolist()
    if ranked.group is not None:
        columns["group"] = ranked.group.tolist()
    names, explanations = list(columns), ranked.explanations
    results = []
    for index, (number, score, *scores) in enumerate(
        zip(ranked.numbers.tolist(), ranked.scores.tolist(), *columns.values(), strict=True)
    ):
        if (row := rows.get(number)) is not None:
            results.append(
                SearchResult(
                    id=row.id,
                    score=score,
                    text=row.text,
                    metadata=orjson.loads(row.metadata),
                    scores=dict(zip(names, scores, strict=True)),
                    explanation=None if explanations is None else explanations[index],
                    highlights=None if highlighter is None else highlighter.passages(row.text),
                )
            )
    return results


def _column(scores: NDArray[np.float64] | None, size: int) -> list[float | None]:
    """Scores of one leg, ``None`` where there is none."""
    if scores is None:
        return [None] * size
    return [None if score != score else score for score in scores.tolist()]  # NaN differs from itself
