"""rank-bm25 as the engine: the package itself over the live documents of a view. The reference; slow when large."""

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
    """``variant`` picks its class; ``lucene``, which it has none for, is its BM25Okapi."""

    def __init__(self, segments: Sequence[tuple[Postings, Mask | None]], options: KeywordOptions) -> None:
        """Raises :class:`sage.errors.MissingExtra`."""
        self._segments = segments
        self._places: list[NDArray[np.int64]] = []
        documents: list[list[str]] = []
        for postings, live in segments:
            kept = np.ones(postings.size, np.bool_) if live is None else live
            self._places.append(np.where(kept, np.cumsum(kept) - 1 + len(documents), -1))
            texts = token_lists(postings.index())
            documents.extend(text for text, lives in zip(texts, kept.tolist(), strict=True) if lives)
        self._engine = _engine(documents, options) if any(documents) else None
        self._last: tuple[tuple[str, ...], Floats] | None = None

    def scores(self, segment: int, terms: Sequence[str], ordinals: NDArray[np.int64]) -> Floats:
        """NaN for dead documents."""
        places = self._places[segment][ordinals]
        if self._engine is None:
            return np.full(len(places), np.nan)
        return np.where(places >= 0, self._all(tuple(terms))[places], np.nan)

    def top(self, segment: int, terms: Sequence[str], allowed: Mask | None, k: int) -> Best:
        """``allowed``: ``None``: all."""
        postings, _ = self._segments[segment]
        holds = np.zeros(postings.size, np.bool_)
        for term in terms:
            holds[postings.postings(term)[0]] = True
        found = np.flatnonzero(holds if allowed is None else holds & allowed)
        return (*best(found, self.scores(segment, terms, found), k), len(found))

    def _all(self, terms: tuple[str, ...]) -> Floats:
        last = self._last
        if last is None or last[0] != terms:
            assert self._engine is not None
            last = self._last = (terms, np.asarray(self._engine.get_scores(list(terms)), np.float64))
        return last[1]


def token_lists(index: KeywordIndex) -> list[list[str]]:
    """The terms of each document, repeats together, in the order in which they first appear in the segment."""
    terms = [term.decode("utf-8", "surrogatepass") for term in index.vocabulary.terms()]
    counts = widths(index.starts)
    places = np.repeat(np.arange(len(terms)), counts)
    order = np.lexsort((index.ranks[places], index.ordinals))
    found: list[list[str]] = [[] for _ in range(index.size)]
    for ordinal, place, frequency in zip(
        index.ordinals[order].tolist(), places[order].tolist(), index.frequencies[order].tolist(), strict=True
    ):
        found[ordinal].extend([terms[place]] * frequency)
    return found


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


def _or(given: float | None, default: float) -> float:
    return default if given is None else given
