"""The engine ``rank-bm25``: the package itself over the live documents of a view. A reference, and slow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.errors import MissingExtra
from sage.middleware.retrieval.keywords.bm25 import Floats
from sage.middleware.retrieval.keywords.kernels import Best, best
from sage.middleware.retrieval.keywords.postings import KeywordIndex, Mask, Postings
from sage.middleware.retrieval.keywords.vocabulary import widths
from sage.middleware.settings.retrieval import KeywordOptions, Variant


class RankBM25:
    """``variant`` decides which class of the package is used; ``lucene``, for which it has none, uses BM25Okapi."""

    def __init__(self, segments: Sequence[tuple[Postings, Mask | None]], options: KeywordOptions) -> None:
        """Raises :class:`sage.errors.MissingExtra`."""
        self._segments = segments
        self._document_of_ordinal: list[NDArray[np.int64]] = []
        documents: list[list[str]] = []
        for postings, live in segments:
            is_live = np.ones(postings.size, np.bool_) if live is None else live
            self._document_of_ordinal.append(np.where(is_live, np.cumsum(is_live) - 1 + len(documents), -1))
            texts = token_lists(postings.index())
            documents.extend(
                text for text, is_live_document in zip(texts, is_live.tolist(), strict=True) if is_live_document
            )
        self._engine = _engine(documents, options) if any(documents) else None
        self._cached: tuple[tuple[str, ...], Floats] | None = None

    def scores(self, segment: int, terms: Sequence[str], ordinals: NDArray[np.int64]) -> Floats:
        """The scores of documents; NaN for dead ones."""
        positions = self._document_of_ordinal[segment][ordinals]
        if self._engine is None:
            return np.full(len(positions), np.nan)
        return np.where(positions >= 0, self._all_scores(tuple(terms))[positions], np.nan)

    def top(self, segment: int, terms: Sequence[str], allowed: Mask | None, k: int) -> Best:
        """``allowed``: ``None`` means that all documents may be returned."""
        postings, _ = self._segments[segment]
        has_word = np.zeros(postings.size, np.bool_)
        for term in terms:
            has_word[postings.postings(term)[0]] = True
        matches = np.flatnonzero(has_word if allowed is None else has_word & allowed)
        return (*best(matches, self.scores(segment, terms, matches), k), len(matches))

    def _all_scores(self, terms: tuple[str, ...]) -> Floats:
        cached = self._cached
        if cached is None or cached[0] != terms:
            assert self._engine is not None
            cached = self._cached = (terms, np.asarray(self._engine.get_scores(list(terms)), np.float64))
        return cached[1]


def token_lists(index: KeywordIndex) -> list[list[str]]:
    """The terms of each document, repeats together, in the order in which they first appear in the segment."""
    terms = [term.decode("utf-8", "surrogatepass") for term in index.vocabulary.terms()]
    counts = widths(index.starts)
    positions = np.repeat(np.arange(len(terms)), counts)
    order = np.lexsort((index.ranks[positions], index.ordinals))
    lists: list[list[str]] = [[] for _ in range(index.size)]
    for ordinal, position, frequency in zip(
        index.ordinals[order].tolist(), positions[order].tolist(), index.frequencies[order].tolist(), strict=True
    ):
        lists[ordinal].extend([terms[position]] * frequency)
    return lists


def _engine(documents: list[list[str]], options: KeywordOptions) -> Any:
    try:
        import rank_bm25
    except ImportError as exc:
        raise MissingExtra("the keyword engine 'rank-bm25'", "rank-bm25") from exc
    if options.variant is Variant.PLUS:
        return rank_bm25.BM25Plus(documents, k1=options.k1, b=options.b, delta=_or(options.delta, 1.0))
    if options.variant is Variant.L:
        return rank_bm25.BM25L(documents, k1=options.k1, b=options.b, delta=_or(options.delta, 0.5))
    return rank_bm25.BM25Okapi(documents, k1=options.k1, b=options.b, epsilon=options.epsilon)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
