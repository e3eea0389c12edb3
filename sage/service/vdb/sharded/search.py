"""One search over the shards of a collection: embedded, scattered, gathered, fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from sage.middleware.retrieval.embedding.protocols import Embedder
from sage.middleware.retrieval.query.answers import answer_too_large, result_of
from sage.middleware.retrieval.query.hybrid import RankedPage
from sage.middleware.retrieval.query.query_vectors import query_vectors
from sage.middleware.retrieval.query.searcher import Ranked
from sage.middleware.retrieval.query.shard_candidates import CandidateRequest, Candidates, Statistics, total_of
from sage.middleware.retrieval.query.shard_merge import place_of, rank
from sage.middleware.retrieval.store.records import Identity
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.highlighter import Highlighter
from sage.middleware.retrieval.text.query_syntax import parse_query
from sage.middleware.retrieval.types.documents import Row
from sage.middleware.retrieval.types.search import Mode, Search, SearchAnswer, SearchResult, check_search, mode_of
from sage.middleware.settings.retrieval import RetrievalLimits
from sage.service.vdb.sharded.scatter import Scatter, at_fault
from sage.service.vdb.sharded.shard import Shard

Answer = TypeVar("Answer")
_FRESH_STARTS = 5
"""How often a page is ranked anew because documents of it were deleted meanwhile."""


class _Ask(Protocol):
    def __call__(self, call: Callable[[int, Shard], Answer], among: Iterable[int], /) -> dict[int, Answer]: ...


def fetch(ask: _Ask, rows: Sequence[int]) -> dict[int, Row]:
    """By rows, those documents that live, without vectors."""
    by_shard: dict[int, dict[int, int]] = {}
    for row in rows:
        place, number = place_of(row)
        by_shard.setdefault(place, {})[number] = row
    fetched = ask(lambda place, shard: shard.fetch([*by_shard[place]]), by_shard)
    return {by_shard[place][number]: row for place, each in fetched.items() for number, row in each.items()}


class ShardedSearch:
    """Answers once; used by one thread."""

    def __init__(
        self,
        scatter: Scatter,
        identity: Identity,
        analyzer: Analyzer,
        embedder: Embedder | None,
        limits: RetrievalLimits,
        partial: bool,
    ) -> None:
        self._scatter = scatter
        self._identity = identity
        self._analyzer = analyzer
        self._embedder = embedder
        self._limits = limits
        self._partial = partial
        self._missing: dict[int, Exception] = {}
        self.sequence = 0
        """Of the last operation on any shard, as they said."""

    def answer(self, search: Search) -> SearchAnswer:
        """Raises :class:`InvalidRequest`, and :class:`Unavailable` for shards that fail."""
        identity = self._identity
        check_search(search, dimension=identity.dimension, max_results=self._limits.max_results)
        statistics: Statistics | None = None
        if identity.dimension is None:
            statistics = self._statistics(search)
            identity = replace(identity, dimension=statistics.dimension)
            check_search(search, dimension=identity.dimension, max_results=self._limits.max_results)
        ((vector, weight, warnings),) = query_vectors([search], identity, lambda _: self._embedder, self._analyzer)
        search = replace(search, vector=vector)
        mode = mode_of(search, parse_query(search.query, self._analyzer), vector is not None, weight)
        for attempt in range(_FRESH_STARTS):
            if mode is not Mode.DENSE and (statistics is None or attempt):
                statistics = self._statistics(search)
            found = self._ranked(search, mode, weight, statistics)
            rows = self._fetched(found)
            if len(rows) == len(found.rows):
                break
        return SearchAnswer(self._results(search, found, rows), found.total, [*warnings, *self._warnings()])

    def _statistics(self, search: Search) -> Statistics:
        terms = list(dict.fromkeys(parse_query(search.query, self._analyzer).terms))
        found = total_of([*self._ask(lambda _, shard: shard.statistics(terms)).values()])
        self.sequence = max(self.sequence, found.sequence)
        return found

    def _ranked(self, search: Search, mode: Mode, weight: float, statistics: Statistics | None) -> RankedPage:
        counted = None if statistics is None else statistics.counted()

        def gather(depth: int) -> Sequence[Candidates | None]:
            ask = CandidateRequest(search, mode, depth, counted)
            found = self._ask(lambda _, shard: shard.candidates(ask))
            return [found.get(place) for place in range(len(self._scatter))]

        return rank(search, mode, parse_query(search.query, self._analyzer), search.vector, weight, gather)

    def _fetched(self, found: RankedPage) -> dict[int, Row]:
        """By rows, those that live; of shards that failed, none."""
        rows = fetch(self._ask, found.rows.tolist())
        if sum(len(row.text) + len(row.metadata) for row in rows.values()) > self._limits.max_answer:
            raise answer_too_large(self._limits.max_answer)
        return rows

    def _results(self, search: Search, found: RankedPage, rows: dict[int, Row]) -> list[SearchResult]:
        ranked = Ranked(found.rows, found.scores, found.dense, found.bm25, found.total, found.explanations)
        highlighter = Highlighter(self._analyzer, search.query) if search.highlight else None
        return [
            result_of(rows[row], place, ranked, None, highlighter)
            for place, row in enumerate(found.rows.tolist())
            if row in rows
        ]

    def _ask(self, call: Callable[[int, Shard], Answer], among: Iterable[int] | None = None) -> dict[int, Answer]:
        """The answers of those that have not failed before; raises unless a partial answer is wanted."""
        wanted = range(len(self._scatter)) if among is None else among
        answers, failures = self._scatter.ask(call, [place for place in wanted if place not in self._missing])
        if failures and (not self._partial or any(map(at_fault, failures.values()))):
            raise self._scatter.refusal(failures)
        self._missing |= failures
        if len(self._missing) == len(self._scatter):
            raise self._scatter.refusal(self._missing)
        return answers

    def _warnings(self) -> list[str]:
        if not self._missing:
            return []
        there = len(self._scatter) - len(self._missing)
        return [f"of {there} of {len(self._scatter)} shards only: {self._scatter.said(self._missing)}"]
