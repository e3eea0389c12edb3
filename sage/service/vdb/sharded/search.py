"""One search over the shards of a collection: embedded, scattered, merged, reranked, fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

from sage.middleware.retrieval.embedding.protocols import Embedder, Reranker
from sage.middleware.retrieval.query.answers import answer_too_large, results_of
from sage.middleware.retrieval.query.hybrid import RankedPage
from sage.middleware.retrieval.query.query_vectors import query_vectors
from sage.middleware.retrieval.query.relevance import RelevanceScale
from sage.middleware.retrieval.query.reranking import reranked
from sage.middleware.retrieval.query.searcher import Ranked, ranked
from sage.middleware.retrieval.query.shard_candidates import CandidateRequest, Candidates, Statistics, total_of
from sage.middleware.retrieval.query.shard_merge import place_of, rank
from sage.middleware.retrieval.query.unmet_signs import page_where_met
from sage.middleware.retrieval.store.records import Identity
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.highlighter import Highlighter
from sage.middleware.retrieval.text.query_syntax import KeywordQuery, parse_query
from sage.middleware.retrieval.types.documents import Row
from sage.middleware.retrieval.types.search import Mode, Search, SearchAnswer, SearchResult, check_search, mode_of
from sage.middleware.settings.retrieval import RetrievalLimits
from sage.service.vdb.sharded.scatter import Scatter, is_of_request
from sage.service.vdb.sharded.shard import Shard

Answer = TypeVar("Answer")
_FRESH_STARTS = 5
"""How often a page is ranked anew because documents of it were deleted meanwhile."""


class _AskShards(Protocol):
    def __call__(self, call: Callable[[int, Shard], Answer], among: Iterable[int], /) -> dict[int, Answer]: ...


def fetch(ask: _AskShards, rows: Sequence[int]) -> dict[int, Row]:
    """The documents at these rows that still exist, by row, without vectors."""
    by_shard: dict[int, dict[int, int]] = {}
    for row in rows:
        index, number = place_of(row)
        by_shard.setdefault(index, {})[number] = row
    fetched = ask(lambda index, shard: shard.fetch([*by_shard[index]]), by_shard)
    return {by_shard[index][number]: row for index, rows_of in fetched.items() for number, row in rows_of.items()}


class ShardedSearch:
    """Answers once; used by one thread."""

    def __init__(
        self,
        scatter: Scatter,
        identity: Identity,
        analyzer: Analyzer,
        embedder: Embedder | None,
        reranker_of: Callable[[str], Reranker] | None,
        limits: RetrievalLimits,
        partial: bool,
    ) -> None:
        """``partial``: the answer may leave out shards that fail, and says so."""
        self._scatter = scatter
        self._identity = identity
        self._analyzer = analyzer
        self._embedder = embedder
        self._reranker_of = reranker_of
        self._limits = limits
        self._partial = partial
        self._failed: dict[int, Exception] = {}
        self.sequence = 0
        """The last operation that any shard knew of."""

    def answer(self, search: Search) -> SearchAnswer:
        """Raises :class:`InvalidRequest`, :class:`Unavailable` for shards that fail, and what an embedder or reranker
        raises."""
        identity = self._identity
        check_search(search, dimension=identity.dimension, max_results=self._limits.max_results)
        statistics: Statistics | None = None
        if identity.dimension is None:
            statistics = self._statistics(parse_query(search.query, self._analyzer, search.syntax))
            identity = replace(identity, dimension=statistics.dimension)
            check_search(search, dimension=identity.dimension, max_results=self._limits.max_results)
        ((vector, weight, warnings),) = query_vectors([search], identity, lambda _: self._embedder, self._analyzer)
        search = replace(search, vector=vector)
        query = parse_query(search.query, self._analyzer, search.syntax)
        mode = mode_of(search, query, vector is not None, weight)
        for attempt in range(_FRESH_STARTS):
            if mode is not Mode.DENSE and (statistics is None or attempt):
                statistics = self._statistics(query)
            ranked, reranker_scores = self._page(search, partial(self._ranked, query, mode, weight, statistics))
            rows = self._fetched(ranked.numbers.tolist())
            if len(rows) == len(ranked.numbers):
                break
        results = self._results(search, ranked, reranker_scores, rows)
        return SearchAnswer(results, ranked.total, [*warnings, *ranked.warnings, *self._warnings()])

    def _page(self, search: Search, rank: Callable[[Search], Ranked]) -> tuple[Ranked, list[float | None] | None]:
        if search.rerank is None or self._reranker_of is None:
            return rank(search), None
        return reranked(search, self._reranker_of, rank, self._fetched)

    def _statistics(self, query: KeywordQuery) -> Statistics:
        terms = list(dict.fromkeys(query.terms))
        total = total_of([*self._ask(lambda _, shard: shard.statistics(terms)).values()])
        self.sequence = max(self.sequence, total.sequence)
        return total

    def _ranked(
        self, query: KeywordQuery, mode: Mode, weight: float, statistics: Statistics | None, search: Search
    ) -> Ranked:
        """A page; its numbers are rows over all shards."""
        query_statistics = None if statistics is None else statistics.query_statistics()
        scale = RelevanceScale.of(self._identity.options.metric, self._identity.embedder, search)

        def page_of(query: KeywordQuery) -> RankedPage:
            def gather(depth: int) -> Sequence[Candidates | None]:
                request = CandidateRequest(search, query, mode, depth, query_statistics)
                candidates = self._ask(lambda _, shard: shard.candidates(request))
                return [candidates.get(index) for index in range(len(self._scatter))]

            return rank(search, mode, query, search.vector, weight, scale, gather)

        page, warnings = page_where_met(query, search.syntax, page_of)
        return ranked(page.rows, page, warnings)

    def _fetched(self, rows: list[int]) -> dict[int, Row]:
        """The documents at these rows that still exist, by row; none of shards that failed."""
        documents = fetch(self._ask, rows)
        if sum(len(row.text) + len(row.metadata) for row in documents.values()) > self._limits.max_answer:
            raise answer_too_large(self._limits.max_answer)
        return documents

    def _results(
        self, search: Search, ranked: Ranked, reranker_scores: list[float | None] | None, rows: dict[int, Row]
    ) -> list[SearchResult]:
        highlighter = Highlighter(self._analyzer, search.query, search.syntax) if search.highlight else None
        return results_of(rows, ranked, reranker_scores, highlighter)

    def _ask(self, call: Callable[[int, Shard], Answer], among: Iterable[int] | None = None) -> dict[int, Answer]:
        """The answers of those that have not failed before; raises unless a partial answer is wanted."""
        indexes = range(len(self._scatter)) if among is None else among
        answers, failures = self._scatter.ask(call, [index for index in indexes if index not in self._failed])
        if failures and (not self._partial or any(map(is_of_request, failures.values()))):
            raise self._scatter.refusal(failures)
        self._failed |= failures
        if len(self._failed) == len(self._scatter):
            raise self._scatter.refusal(self._failed)
        return answers

    def _warnings(self) -> list[str]:
        if not self._failed:
            return []
        answering = len(self._scatter) - len(self._failed)
        return [f"of {answering} of {len(self._scatter)} shards only: {self._scatter.explain(self._failed)}"]
