"""The keyword leg of a search: BM25 over the segments of a view, with statistics of all its live documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords import bm25
from sage.middleware.retrieval.keywords.bm25 import Floats
from sage.middleware.retrieval.keywords.compiled import compiled_kernels
from sage.middleware.retrieval.keywords.kernels import Best, Slice, best, slice_scores, top_by_numpy
from sage.middleware.retrieval.keywords.live_statistics import LiveStatistics, live_statistics
from sage.middleware.retrieval.keywords.phrases import clause_masks
from sage.middleware.retrieval.keywords.postings import KeywordIndex, Mask, Postings, document_frequencies, few_rows
from sage.middleware.retrieval.keywords.rank_bm25 import RankBM25
from sage.middleware.retrieval.keywords.vocabulary import encode
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.query_syntax import KeywordQuery
from sage.middleware.settings.retrieval import KeywordOptions, Variant

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Hits:
    """The best rows of a view, best first, equal scores by row; ``total`` is how many documents match in all."""

    rows: Rows
    scores: Floats
    total: int


@dataclass(frozen=True, slots=True)
class GroupMembers:
    """Documents of one segment that belong to groups, and to which group each belongs."""

    ordinals: Rows
    owners: NDArray[np.int64]

    def among(self, mask: Mask) -> GroupMembers:
        """Those that ``mask`` lets through."""
        chosen = np.flatnonzero(mask[self.ordinals])
        return GroupMembers(self.ordinals[chosen], self.owners[chosen])

    def in_order(self) -> GroupMembers:
        """By their ordinals, which is faster to look up."""
        order = np.argsort(self.ordinals)
        return GroupMembers(self.ordinals[order], self.owners[order])


@dataclass(frozen=True, slots=True)
class _WeightedWord:
    """A word of a query: what it is worth, and how many live documents hold it (``df``)."""

    term: str
    weight: float
    base: float
    df: int
    share: float
    spans: tuple[tuple[int, int] | None, ...]
    """From where to where its postings stand in each segment; ``None`` for one that still grows."""


class _QueryWords:
    """The words of a query in its order, each once."""

    def __init__(self, terms: tuple[str, ...], words: Sequence[_WeightedWord]) -> None:
        self.terms, self.words = terms, words
        self.share = sum(word.share for word in words)
        self._located: dict[int, Floats] = {}

    def located(self, segment: int) -> Floats:
        """The words that have postings in a segment, as the compiled kernels take them."""
        located = self._located.get(segment)
        if located is None:
            columns = [
                (*span, word.weight, word.base, word.share)
                for word in self.words
                if (span := word.spans[segment]) is not None and span[1] > span[0]
            ]
            located = self._located[segment] = np.array(columns, np.float64).reshape(len(columns), 5)
        return located


class KeywordLeg:
    """BM25 over segments, each with the mask of its live documents (``None`` means that all are live). A row is a
    document's place among those of all segments. It is cheap to make, and may be kept for a view. Safe to call from
    several threads."""

    def __init__(
        self,
        segments: Sequence[tuple[Postings, Mask | None]],
        options: KeywordOptions,
        query_statistics: bm25.QueryStatistics | None = None,
    ) -> None:
        """``query_statistics`` replace those of these segments, for the words of the queries to come."""
        self._segments = [(postings, live) for postings, live in segments]
        self._options = options
        self._query_statistics = query_statistics
        self._starts = [0, *accumulate(postings.size for postings, _ in self._segments)]
        self._words = _QueryWords((), [])

    def top(self, query: KeywordQuery, k: int, allowed: Sequence[Mask | None]) -> Hits:
        """The ``k`` best. ``allowed`` has a mask for each segment of the documents that may be returned, only live
        ones; ``None`` means all live ones. A match counts whatever the sign of its score. The query's ``required`` and
        ``excluded`` are not looked at: :meth:`constraint` turns them into masks, which belong into ``allowed``."""
        if (few := few_rows(allowed)) is not None:
            return self._top_of(query, few, k)
        results: list[Best] = []
        words = self._weighted(query)
        for (_, live), mask in zip(self._segments, allowed, strict=True):
            results.append(self._best(len(results), query, words, live if mask is None else mask, k))
        if len(results) == 1:
            return Hits(*results[0])
        row_lists = [rows + start for (rows, _, _), start in zip(results, self._starts, strict=False)]
        rows = np.concatenate(row_lists or [np.empty(0, np.int64)])
        scores = np.concatenate([segment_scores for _, segment_scores, _ in results] or [np.empty(0)])
        order = np.lexsort((rows, -scores))[: max(k, 0)]
        return Hits(rows[order], scores[order], sum(total for _, _, total in results))

    def _top_of(self, query: KeywordQuery, rows: Rows, k: int) -> Hits:
        """The ``k`` best of ``rows``, which ascend."""
        scores = self.scored(query, rows)[0]
        matches = np.flatnonzero(~np.isnan(scores))
        return Hits(*best(rows[matches], scores[matches], k), len(matches))

    def _best(self, segment: int, query: KeywordQuery, words: _QueryWords, mask: Mask | None, k: int) -> Best:
        if self._reference is not None:
            return self._reference.top(segment, query.terms, mask, k)
        postings = self._segments[segment][0]
        if isinstance(postings, KeywordIndex) and (kernels := compiled_kernels(postings)) is not None:
            located = words.located(segment)
            if not len(located):
                return np.empty(0, np.int64), np.empty(0), 0
            return kernels.top(postings, located, self._curve, mask, k)
        return top_by_numpy(_slices(postings, words.words), postings.lengths, self._curve, mask, k)

    def scored(self, query: KeywordQuery, rows: Rows) -> tuple[Floats, Floats]:
        """``(scores, coverage)`` of each row. A score is the same number as :meth:`top` gives, and NaN where the row
        holds no word of the query. Coverage is the sum of the shares of the words that it holds, 0 to 1: see
        :meth:`matched`."""
        rows = np.asarray(rows, np.int64)
        scores, shares = np.full(len(rows), np.nan), np.zeros(len(rows))
        words = self._weighted(query)
        for segment, indices, ordinals in self._rows_by_segment(rows):
            some = self._scored(segment, words, ordinals)
            if indices is None:
                scores, shares = some
            else:
                scores[indices], shares[indices] = some
            if self._reference is not None:
                reference = self._reference.scores(segment, query.terms, ordinals)
                scores[slice(None) if indices is None else indices] = np.where(np.isnan(some[0]), np.nan, reference)
        return scores, np.minimum(shares / words.share, 1.0) if words.share else shares

    def _scored(self, segment: int, words: _QueryWords, ordinals: Rows) -> tuple[Floats, Floats]:
        """The scores and the sums of shares of documents of one segment."""
        postings = self._segments[segment][0]
        if isinstance(postings, KeywordIndex) and (kernels := compiled_kernels(postings)) is not None:
            return kernels.score_rows(postings, words.located(segment), self._curve, ordinals)
        scores, shares, matches = np.zeros(len(ordinals)), np.zeros(len(ordinals)), np.zeros(len(ordinals), np.bool_)
        for word in words.words:
            each = Slice(*postings.postings(word.term), word.weight, word.base)
            if not len(each.ordinals):
                continue
            postings_here, has_posting = _postings_among(each, ordinals)
            matches |= has_posting
            shares[has_posting] += word.share
            scores[has_posting] += slice_scores(postings_here, postings.lengths, self._curve)
        scores[~matches] = np.nan
        return scores, shares

    def matched(self, query: KeywordQuery, rows: Rows) -> list[dict[str, float]]:
        """For each row the words of the query that it holds, with their shares. The share of a word is its part of the
        sum of all idf, so that all words of the query together have 1, and rare ones more than common ones."""
        rows = np.asarray(rows, np.int64)
        shares: list[dict[str, float]] = [{} for _ in range(len(rows))]
        words = self._weighted(query)
        for segment, indices, ordinals in self._rows_by_segment(rows):
            places = np.arange(len(rows)) if indices is None else indices
            for word in words.words:
                has_word = _contains(self._segments[segment][0].postings(word.term)[0], ordinals)
                for row in places[has_word].tolist():
                    shares[row][word.term] = word.share / words.share
        return shares

    def of_groups(self, query: KeywordQuery, members: Sequence[GroupMembers], groups: int) -> Floats:
        """``(groups,)``: the score of each group of documents, taken as one document. ``members`` says for each segment
        which documents belong to groups."""
        in_order = [each.in_order() for each in members]
        lengths = np.zeros(groups)
        for (postings, _), each in zip(self._segments, in_order, strict=True):
            lengths += np.bincount(each.owners, postings.lengths[each.ordinals], groups)
        curve = bm25.curve(self._options, bm25.CorpusStatistics(groups, int(lengths.sum())))
        scores = np.zeros(groups)
        for word in self._weighted(query).words:
            frequencies = np.zeros(groups)
            for (postings, _), each in zip(self._segments, in_order, strict=True):
                ordinals, counts = postings.postings(word.term)
                if len(ordinals) and len(each.ordinals):
                    places = np.minimum(ordinals.searchsorted(each.ordinals.astype(ordinals.dtype)), len(ordinals) - 1)
                    holding = np.flatnonzero(ordinals[places] == each.ordinals)
                    frequencies += np.bincount(each.owners[holding], counts[places[holding]], groups)
            gains = word.base + word.weight * curve.of(frequencies, lengths)
            scores += np.where(frequencies > 0, gains, 0.0)
        return scores

    def known(self, query: KeywordQuery) -> float:
        """The sum of the shares of the words that any live document holds, 0 to 1: see :meth:`matched`."""
        words = self._weighted(query)
        return sum(word.share for word in words.words if word.df) / words.share if words.share else 1.0

    def constraint(
        self,
        query: KeywordQuery,
        analyzer: Analyzer,
        texts: Callable[[Sequence[int]], Sequence[str | None]],
        allowed: Sequence[Mask | None] | None = None,
    ) -> list[Mask] | None:
        """For each segment the live documents, among those ``allowed``, that hold what the query requires and nothing
        that it excludes; ``None`` means that it requires and excludes nothing. ``texts`` gives the texts of rows
        (``None`` for a document that was deleted meanwhile), for phrases. Raises :class:`sage.errors.InvalidRequest`
        for a phrase of words that are too common."""
        if not query.constrains:
            return None
        allowed_masks = allowed if allowed is not None else [None] * len(self._segments)
        return clause_masks(self._segments, self._starts, query, analyzer, texts, allowed_masks)

    @cached_property
    def _live_statistics(self) -> list[LiveStatistics]:
        return [live_statistics(postings, live) for postings, live in self._segments]

    @cached_property
    def corpus(self) -> bm25.CorpusStatistics:
        """Statistics of the live documents, or of those in ``query_statistics``."""
        if self._query_statistics is not None:
            return self._query_statistics.corpus
        return bm25.CorpusStatistics(
            sum(each.documents for each in self._live_statistics), sum(each.length for each in self._live_statistics)
        )

    @cached_property
    def _curve(self) -> bm25.Curve:
        return bm25.curve(self._options, self.corpus)

    @cached_property
    def _floor(self) -> float:
        """Of ``okapi``: what words with a negative idf get."""
        indexes = [(postings.index(), live) for postings, live in self._segments]
        mean = bm25.mean_okapi_idf(self.corpus.documents, document_frequencies(indexes))
        return self._options.epsilon * mean

    @cached_property
    def _reference(self) -> RankBM25 | None:
        return RankBM25(self._segments, self._options) if self._options.engine == "rank-bm25" else None

    def _weighted(self, query: KeywordQuery) -> _QueryWords:
        words = self._words
        if words.terms != query.terms:
            weighted = [self._weighted_word(term, count) for term, count in Counter(query.terms).items()]
            self._words = words = _QueryWords(query.terms, weighted)
        return words

    def query_statistics(self, terms: Iterable[str]) -> bm25.QueryStatistics:
        """The statistics of these documents, which a leg over more documents adds up."""
        return bm25.QueryStatistics(self.corpus, {term: self._df(term, self._spans(term)) for term in terms})

    def _spans(self, term: str) -> tuple[tuple[int, int] | None, ...]:
        encoded = encode(term)
        return tuple(
            postings.locate(encoded) if isinstance(postings, KeywordIndex) else None for postings, _ in self._segments
        )

    def _df(self, term: str, spans: Sequence[tuple[int, int] | None]) -> int:
        if self._query_statistics is not None:
            return self._query_statistics.df.get(term, 0)
        return sum(
            span[1] - span[0] if span is not None and each.live is None else each.df(postings, term)
            for each, (postings, _), span in zip(self._live_statistics, self._segments, spans, strict=True)
        )

    def _weighted_word(self, term: str, count: int) -> _WeightedWord:
        spans = self._spans(term)
        df = self._df(term, spans)
        documents = self.corpus.documents
        share = bm25.share(documents, df)
        if not df:
            return _WeightedWord(term, 0.0, 0.0, 0, share, spans)
        idf = bm25.idf(self._options.variant, documents, df)
        if idf < 0 and self._options.variant is Variant.OKAPI:
            idf = self._floor
        weight, base = bm25.weight(self._options, idf)
        return _WeightedWord(term, count * weight, count * base, df, share, spans)

    def _rows_by_segment(self, rows: Rows) -> list[tuple[int, NDArray[np.int64] | None, Rows]]:
        """``(segment, indices of its rows in ``rows``, their ordinals)``; ``None`` stands for the indices of all."""
        if len(self._segments) == 1:
            return [(0, None, rows)]
        segments = np.searchsorted(self._starts, rows, side="right") - 1
        return [
            (segment, indices, rows[indices] - self._starts[segment])
            for segment in np.unique(segments).tolist()
            if len(indices := np.flatnonzero(segments == segment))
        ]


def _slices(postings: Postings, words: Sequence[_WeightedWord]) -> list[Slice]:
    slices = (Slice(*postings.postings(word.term), word.weight, word.base) for word in words)
    return [each for each in slices if len(each.ordinals)]


def _contains(ordinals: NDArray[np.uint32], rows: Rows) -> Mask:
    if not len(ordinals):
        return np.zeros(len(rows), np.bool_)
    index = np.minimum(ordinals.searchsorted(rows.astype(np.uint32)), len(ordinals) - 1)
    return np.asarray(ordinals[index] == rows)


def _postings_among(each: Slice, rows: Rows) -> tuple[Slice, Mask]:
    """The postings of those ``rows`` that have one, and a mask of these rows."""
    index = np.minimum(each.ordinals.searchsorted(rows.astype(np.uint32)), len(each.ordinals) - 1)
    has_posting = each.ordinals[index] == rows
    index = index[has_posting]
    return Slice(each.ordinals[index], each.frequencies[index], each.weight, each.base), has_posting
