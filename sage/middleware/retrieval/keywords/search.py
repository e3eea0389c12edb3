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
from sage.middleware.retrieval.keywords.compiled import compiled_kernel
from sage.middleware.retrieval.keywords.kernels import Best, Slice, slice_scores, top_by_numpy
from sage.middleware.retrieval.keywords.live_statistics import LiveStatistics, live_statistics
from sage.middleware.retrieval.keywords.phrases import clause_masks
from sage.middleware.retrieval.keywords.postings import KeywordIndex, Mask, Postings, document_frequencies
from sage.middleware.retrieval.keywords.rank_bm25 import RankBM25
from sage.middleware.retrieval.keywords.vocabulary import encode
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.query_syntax import KeywordQuery
from sage.middleware.settings.retrieval import KeywordOptions, Variant

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Hits:
    """The best rows of a view, best first, equal scores by row; ``total``: how many match in all."""

    rows: Rows
    scores: Floats
    total: int


@dataclass(frozen=True, slots=True)
class _Word:
    """A word of a query: what it is worth, and how many live documents hold it."""

    term: str
    weight: float
    base: float
    df: int
    share: float


class KeywordLeg:
    """BM25 over segments, each with the mask of its live documents (``None``: all live). A row is a document's place
    over all segments. Cheap to make; may be kept for a view. Safe to call from several threads."""

    def __init__(
        self,
        segments: Sequence[tuple[Postings, Mask | None]],
        options: KeywordOptions,
        counted: bm25.Counted | None = None,
    ) -> None:
        """``counted``: statistics to score with in place of these segments' own, for the words of the queries to
        come."""
        self._segments = [(postings, live) for postings, live in segments]
        self._options = options
        self._counted = counted
        self._starts = [0, *accumulate(postings.size for postings, _ in self._segments)]
        self._words: tuple[tuple[str, ...], list[_Word]] = ((), [])

    def top(self, query: KeywordQuery, k: int, allowed: Sequence[Mask | None]) -> Hits:
        """The ``k`` best. ``allowed``: of each segment which documents may be returned, live ones only; ``None``: all
        live ones. A match is a match whatever its score's sign. The query's ``required`` and ``excluded`` are not
        looked at: they are masks (:meth:`constraint`), which belong into ``allowed``."""
        found: list[Best] = []
        words = self._weighed(query)
        for (_, live), mask in zip(self._segments, allowed, strict=True):
            found.append(self._best(len(found), query, words, live if mask is None else mask, k))
        if len(found) == 1:
            return Hits(*found[0])
        placed = [rows + start for (rows, _, _), start in zip(found, self._starts, strict=False)]
        rows = np.concatenate(placed or [np.empty(0, np.int64)])
        scores = np.concatenate([part_scores for _, part_scores, _ in found] or [np.empty(0)])
        order = np.lexsort((rows, -scores))[: max(k, 0)]
        return Hits(rows[order], scores[order], sum(total for _, _, total in found))

    def _best(self, segment: int, query: KeywordQuery, words: Sequence[_Word], mask: Mask | None, k: int) -> Best:
        if self._reference is not None:
            return self._reference.top(segment, query.terms, mask, k)
        postings = self._segments[segment][0]
        if isinstance(postings, KeywordIndex) and (kernel := compiled_kernel(postings)) is not None:
            places = [(*postings.locate(encode(word.term)), word.weight, word.base) for word in words]
            places = [each for each in places if each[1] > each[0]]
            if not places:
                return np.empty(0, np.int64), np.empty(0), 0
            return kernel.top(postings, places, self._curve, mask, k)
        return top_by_numpy(_slices(postings, words), postings.lengths, self._curve, mask, k)

    def scores(self, query: KeywordQuery, rows: Rows) -> Floats:
        """Of each row; NaN where no word of the query stands in it. The same numbers as :meth:`top` gives."""
        rows = np.asarray(rows, np.int64)
        scores, matches = np.zeros(len(rows)), np.zeros(len(rows), np.bool_)
        words = self._weighed(query)
        for segment, which, ordinals in self._by_segment(rows):
            postings, _ = self._segments[segment]
            for each in _slices(postings, words):
                here, held = _held(each, ordinals)
                matches[which[held]] = True
                if self._reference is None:
                    scores[which[held]] += slice_scores(here, postings.lengths, self._curve)
            if self._reference is not None:
                scores[which] = self._reference.scores(segment, query.terms, ordinals)
        scores[~matches] = np.nan
        return scores

    def matched(self, query: KeywordQuery, rows: Rows) -> list[dict[str, float]]:
        """Of each row the words of the query that stand in it, with their shares: what each word says of all that
        the query says (its idf, which rare words have more of), so that all words together have 1."""
        rows = np.asarray(rows, np.int64)
        found: list[dict[str, float]] = [{} for _ in range(len(rows))]
        words = self._weighed(query)
        whole = sum(word.share for word in words)
        for segment, which, ordinals in self._by_segment(rows):
            for word in words:
                held = _contains(self._segments[segment][0].postings(word.term)[0], ordinals)
                for row in which[held].tolist():
                    found[row][word.term] = word.share / whole
        return found

    def coverage(self, query: KeywordQuery, rows: Rows) -> Floats:
        """Of each row, 0 to 1, the shares of the words that stand in it added up (see :meth:`matched`)."""
        rows = np.asarray(rows, np.int64)
        found = np.zeros(len(rows))
        words = self._weighed(query)
        whole = sum(word.share for word in words)
        for segment, which, ordinals in self._by_segment(rows):
            for word in words:
                found[which[_contains(self._segments[segment][0].postings(word.term)[0], ordinals)]] += word.share
        return np.minimum(found / whole, 1.0) if whole else found

    def constraint(
        self,
        query: KeywordQuery,
        analyzer: Analyzer,
        texts: Callable[[Sequence[int]], Sequence[str | None]],
        allowed: Sequence[Mask | None] | None = None,
    ) -> list[Mask] | None:
        """Of each segment the live documents (of those ``allowed``) that hold what the query requires and nothing that
        it excludes; ``None``: it says nothing of the kind. ``texts`` gives the text of rows (``None``: gone meanwhile),
        for phrases. Raises :class:`sage.errors.InvalidRequest` for a phrase of words that are too common."""
        if not query.constrains:
            return None
        among = allowed if allowed is not None else [None] * len(self._segments)
        return clause_masks(self._segments, self._starts, query, analyzer, texts, among)

    @cached_property
    def _live_statistics(self) -> list[LiveStatistics]:
        return [live_statistics(postings, live) for postings, live in self._segments]

    @cached_property
    def collected(self) -> bm25.Collected:
        """Statistics of the live documents, or those that were given."""
        if self._counted is not None:
            return self._counted.collected
        return bm25.Collected(
            sum(each.documents for each in self._live_statistics), sum(each.length for each in self._live_statistics)
        )

    @cached_property
    def _curve(self) -> bm25.Curve:
        return bm25.curve(self._options, self.collected)

    @cached_property
    def _floor(self) -> float:
        """``okapi``: what words get whose idf is negative."""
        indexes = [(postings.index(), live) for postings, live in self._segments]
        mean = bm25.mean_okapi_idf(self.collected.documents, document_frequencies(indexes))
        return self._options.epsilon * mean

    @cached_property
    def _reference(self) -> RankBM25 | None:
        return RankBM25(self._segments, self._options) if self._options.engine == "rank-bm25" else None

    def _weighed(self, query: KeywordQuery) -> list[_Word]:
        """The words in the order of the query, each once."""
        known, words = self._words
        if known != query.terms:
            words = [self._weigh(term, count) for term, count in Counter(query.terms).items()]
            self._words = query.terms, words
        return words

    def counted(self, terms: Iterable[str]) -> bm25.Counted:
        """What another leg over more documents needs to know of these."""
        return bm25.Counted(self.collected, {term: self._df(term) for term in terms})

    def _df(self, term: str) -> int:
        if self._counted is not None:
            return self._counted.df.get(term, 0)
        return sum(
            each.df(postings, term) for each, (postings, _) in zip(self._live_statistics, self._segments, strict=True)
        )

    def _weigh(self, term: str, count: int) -> _Word:
        df = self._df(term)
        documents = self.collected.documents
        share = bm25.share(documents, df)
        if not df:
            return _Word(term, 0.0, 0.0, 0, share)
        idf = bm25.idf(self._options.variant, documents, df)
        if idf < 0 and self._options.variant is Variant.OKAPI:
            idf = self._floor
        weight, base = bm25.weight(self._options, idf)
        return _Word(term, count * weight, count * base, df, share)

    def _by_segment(self, rows: Rows) -> list[tuple[int, NDArray[np.int64], Rows]]:
        """``(segment, which of rows are in it, their ordinals)``."""
        segments = np.searchsorted(self._starts, rows, side="right") - 1
        return [
            (segment, which, rows[which] - self._starts[segment])
            for segment in np.unique(segments).tolist()
            if len(which := np.flatnonzero(segments == segment))
        ]


def _slices(postings: Postings, words: Sequence[_Word]) -> list[Slice]:
    found = (Slice(*postings.postings(word.term), word.weight, word.base) for word in words)
    return [each for each in found if len(each.ordinals)]


def _contains(ordinals: NDArray[np.uint32], wanted: Rows) -> Mask:
    if not len(ordinals):
        return np.zeros(len(wanted), np.bool_)
    place = np.minimum(ordinals.searchsorted(wanted.astype(np.uint32)), len(ordinals) - 1)
    return np.asarray(ordinals[place] == wanted)


def _held(each: Slice, wanted: Rows) -> tuple[Slice, Mask]:
    """The postings of those of ``wanted`` that have one, and which they are."""
    place = np.minimum(each.ordinals.searchsorted(wanted.astype(np.uint32)), len(each.ordinals) - 1)
    held = each.ordinals[place] == wanted
    place = place[held]
    return Slice(each.ordinals[place], each.frequencies[place], each.weight, each.base), held
