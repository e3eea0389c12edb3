"""What one shard of a collection says to a search over all of them.

A shard is a collection that holds the documents of some ids. It is asked twice: what it has of the query's words
(:class:`Statistics`), and, with those of all shards added up (:class:`CandidateRequest`), for its best candidates with
their scores on both legs (:class:`Candidates`). So every document gets the score that it would have in one collection
of them all. :mod:`sage.middleware.retrieval.query.shard_merge` makes one order of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.bm25 import Collected, Counted
from sage.middleware.retrieval.keywords.postings import Mask
from sage.middleware.retrieval.query.hybrid import Floats, Legs, Rows, complete
from sage.middleware.retrieval.types.search import Mode, Search


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the live documents of one shard, or of several."""

    documents: int
    length: int
    """Of all of them together, in terms."""
    df: Mapping[str, int]
    """How many of them hold each word that was asked for."""
    sequence: int
    """Of the last operation."""
    dimension: int | None
    """Of the vectors; ``None``: there was none yet."""

    def counted(self) -> Counted:
        return Counted(Collected(self.documents, self.length), self.df)


def total_of(found: Sequence[Statistics]) -> Statistics:
    """Those of several shards, which have no document in common, added up."""
    df: dict[str, int] = {}
    for each in found:
        for term, count in each.df.items():
            df[term] = df.get(term, 0) + count
    return Statistics(
        sum(each.documents for each in found),
        sum(each.length for each in found),
        df,
        max((each.sequence for each in found), default=0),
        next((each.dimension for each in found if each.dimension is not None), None),
    )


@dataclass(frozen=True, slots=True)
class CandidateRequest:
    """``search`` with the query's vector in it, if there is one; ``mode``: on which legs, whatever it says itself."""

    search: Search
    mode: Mode
    depth: int
    """How many candidates of each leg."""
    counted: Counted | None = None
    """Of all shards; not needed for vectors alone."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The best of each leg, with the scores of both; one entry a document, in the order of numbers."""

    numbers: NDArray[np.int64]
    dense: Floats
    """NaN: it has no vector, or that leg was not asked."""
    keywords: Floats
    """NaN: no word stands in it, or that leg was not asked."""
    coverage: Floats
    """The share of the query's words that stand in it, 0 to 1."""
    with_vector: int
    """How many documents have a vector."""
    with_keyword: int
    """How many documents hold a word."""
    total: int
    """How many documents match at all."""
    matched: Sequence[Mapping[str, float]] | None = None
    """To explain: the words that stand in each, with their shares."""


def candidates(legs: Legs, request: CandidateRequest, unvectored: Callable[[], list[Mask | None] | None]) -> Candidates:
    """What one view has; its rows stand in place of ``numbers``. ``unvectored``: of each segment the allowed documents
    without a vector; ``None``: there are none."""
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
    keywords = complete(rows, hits.rows, hits.scores, lambda missing: legs.keywords.scores(legs.query, missing))
    hybrid = request.mode is Mode.HYBRID  # else nothing is weighed against words
    coverage = legs.keywords.coverage(legs.query, rows) if hybrid else np.zeros(len(rows))
    matched = legs.keywords.matched(legs.query, rows) if request.search.explain else None
    return Candidates(rows, dense, keywords, coverage, with_vector, hits.total, total, matched)


def _by_vectors(legs: Legs, request: CandidateRequest) -> Candidates:
    if legs.vector is None:  # no document has one yet
        none = np.empty(0)
        return Candidates(np.empty(0, np.int64), none, none, none, 0, 0, 0)
    found, scores, total = legs.dense.top(legs.vector, request.depth, legs.allowed, exact=legs.exact)
    order = np.argsort(found)
    rows: Rows = found[order]
    return Candidates(rows, scores[order], np.full(len(rows), np.nan), np.zeros(len(rows)), total, 0, total)
