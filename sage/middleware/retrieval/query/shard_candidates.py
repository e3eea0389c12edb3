"""What one shard of a collection answers in a search over all of them.

A shard is a collection that holds the documents of some ids. It gets two requests: for its statistics of the query's
words (:class:`Statistics`), and then, with the sum over all shards (:class:`CandidateRequest`), for its best candidates
with their scores on both legs (:class:`Candidates`). So every document gets the score that it would have in one
collection of all documents. :mod:`sage.middleware.retrieval.query.shard_merge` makes one order of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.bm25 import CorpusStatistics, QueryStatistics
from sage.middleware.retrieval.query.hybrid import Floats, Legs, Rows, Unvectored, complete
from sage.middleware.retrieval.text.query_syntax import KeywordQuery
from sage.middleware.retrieval.types.search import Mode, Search


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the live documents of one shard, or of several."""

    documents: int
    length: int
    """Of all of them together, in terms."""
    df: Mapping[str, int]
    """How many of them hold each requested word."""
    sequence: int
    """Of the last operation."""
    dimension: int | None
    """Of the vectors; ``None`` means that there is none yet."""

    def query_statistics(self) -> QueryStatistics:
        return QueryStatistics(CorpusStatistics(self.documents, self.length), self.df)


def total_of(statistics: Sequence[Statistics]) -> Statistics:
    """The sum over several shards, which have no document in common."""
    df: dict[str, int] = {}
    for each in statistics:
        for term, count in each.df.items():
            df[term] = df.get(term, 0) + count
    return Statistics(
        sum(each.documents for each in statistics),
        sum(each.length for each in statistics),
        df,
        max((each.sequence for each in statistics), default=0),
        next((each.dimension for each in statistics if each.dimension is not None), None),
    )


@dataclass(frozen=True, slots=True)
class CandidateRequest:
    """``search`` brings the query's vector, if there is one. ``mode`` decides which legs are used; that of ``search``
    does not count."""

    search: Search
    query: KeywordQuery
    """What is looked for."""
    mode: Mode
    depth: int
    """How many candidates of each leg are wanted."""
    query_statistics: QueryStatistics | None = None
    """The statistics of all shards; not needed for vectors alone."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The best of each leg, with the scores of both; one entry a document, in the order of numbers."""

    numbers: NDArray[np.int64]
    dense: Floats
    """NaN means that it has no vector, or that the leg was not used."""
    keywords: Floats
    """NaN means that it holds no word of the query, or that the leg was not used."""
    coverage: Floats
    """The share of the query's words that it holds, 0 to 1."""
    with_vector: int
    """How many documents have a vector."""
    with_keyword: int
    """How many documents hold a word."""
    total: int
    """How many documents match at all."""
    known: float = 1.0
    """The share of the query's words that any document of any shard holds, 0 to 1."""
    matched: Sequence[Mapping[str, float]] | None = None
    """For explanations: the words that each document holds, with their shares."""


def candidates(legs: Legs, request: CandidateRequest, unvectored: Unvectored) -> Candidates:
    """The candidates of one view, with rows in place of ``numbers``."""
    if request.mode is Mode.DENSE:
        return _by_vectors(legs, request)
    hits = legs.keywords.top(legs.query, request.depth, legs.allowed)
    if request.mode is Mode.BM25:
        rows, with_vector, total = np.sort(hits.rows), 0, hits.total
        dense = np.full(len(rows), np.nan)
    else:
        assert legs.vector is not None
        dense_rows, dense_scores, with_vector, others = legs.dense.top_and(
            hits.rows, legs.vector, request.depth, legs.allowed, legs.exact
        )
        rows = np.union1d(dense_rows, hits.rows)
        dense = complete(rows, np.concatenate([dense_rows, hits.rows]), np.concatenate([dense_scores, others]))
        total = with_vector
        if hits.total and (without := unvectored()) is not None:
            total += legs.keywords.top(legs.query, 1, without).total
    keywords, coverage = legs.keywords.scored(legs.query, rows)
    matched = legs.keywords.matched(legs.query, rows) if request.search.explain else None
    known = legs.keywords.known(legs.query) if request.mode is Mode.HYBRID else 1.0
    return Candidates(rows, dense, keywords, coverage, with_vector, hits.total, total, known, matched)


def _by_vectors(legs: Legs, request: CandidateRequest) -> Candidates:
    if legs.vector is None:  # no document has one yet
        no_scores = np.empty(0)
        return Candidates(np.empty(0, np.int64), no_scores, no_scores, no_scores, 0, 0, 0)
    unsorted, scores, total = legs.dense.top(legs.vector, request.depth, legs.allowed, exact=legs.exact)
    order = np.argsort(unsorted)
    rows: Rows = unsorted[order]
    return Candidates(rows, scores[order], np.full(len(rows), np.nan), np.zeros(len(rows)), total, 0, total)
