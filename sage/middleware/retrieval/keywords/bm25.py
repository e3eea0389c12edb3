"""BM25: what a word in a document is worth. The formulas, and the statistics that they need.

``tf`` is how often the word occurs in the document, ``dl`` the document's length in terms, ``avgdl`` the mean length of
the live documents, ``N`` their number, ``df`` the number of them that hold the word, and ``B = 1 - b + b · dl /
avgdl``. A document's score is the sum, over the words of the query that it holds (a repeated word counts each time), of
idf times the second column:

========  =====================================  =========================================================
lucene    ``ln(1 + (N - df + ½) / (df + ½))``    ``tf / (tf + k1·B)`` (Lucene 8 and later)
okapi     ``ln((N - df + ½) / (df + ½))``, and   ``tf·(k1 + 1) / (tf + k1·B)`` (Robertson 1994, with the floor of
          where that is negative ``epsilon`` ·   rank_bm25.BM25Okapi, to which it is equal)
          its mean over all words
plus      ``ln((N + 1) / df)``                   ``delta + tf·(k1 + 1) / (tf + k1·B)``
l         ``ln((N + 1) / (df + ½))``             ``(k1 + 1)·(c + delta) / (k1 + c + delta)`` with ``c = tf / B``
========  =====================================  =========================================================

plus: Lv and Zhai, *Lower-bounding term frequency normalization*, CIKM 2011; l: Lv and Zhai, *When documents are very
long, BM25 fails!*, SIGIR 2011. Both add ``delta`` only for words in the document, as the papers do.
rank_bm25's BM25Plus adds it for the others too (one constant for all documents, so the order is that of no ``delta``),
and its BM25L multiplies by ``tf`` once more: scores are equal to its where a document holds every word of the query
(plus) and where words occur once (l).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sage.middleware.settings.retrieval import KeywordOptions, Variant

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CorpusStatistics:
    """Of the live documents of a view, or of all shards."""

    documents: int
    length: int
    """Of all documents together, in terms."""

    @property
    def mean_length(self) -> float:
        return self.length / self.documents if self.documents else 0.0


@dataclass(frozen=True, slots=True)
class QueryStatistics:
    """What scores depend on, for the words of a query: it may count more documents than one view has."""

    corpus: CorpusStatistics
    df: Mapping[str, int]
    """How many documents hold each word."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The part of a score that depends on the document: ``(tf + rise·B) / (tf + bend·B)`` with
    ``B = flat + slope·dl``; it is multiplied by the word's weight, and the word's base is added."""

    flat: float
    slope: float
    rise: float
    bend: float

    def of(self, frequencies: Floats, lengths: Floats) -> Floats:
        norm = self.flat + self.slope * lengths
        return (frequencies + self.rise * norm) / (frequencies + self.bend * norm)


def curve(options: KeywordOptions, corpus: CorpusStatistics) -> Curve:
    mean_length = corpus.mean_length
    slope = options.b / mean_length if mean_length else 0.0
    rise = _delta(options) if options.variant is Variant.L else 0.0
    return Curve(1.0 - options.b, slope, rise, options.k1 + rise)


def weight(options: KeywordOptions, idf: float) -> tuple[float, float]:
    """``(weight, base)`` of a word with this ``idf`` that stands in the query once."""
    if options.variant is Variant.LUCENE:
        return idf, 0.0
    base = idf * _delta(options) if options.variant is Variant.PLUS else 0.0
    return idf * (options.k1 + 1.0), base


def idf(variant: Variant, documents: int, df: int) -> float:
    """Of a word that ``df`` ≥ 1 of ``documents`` hold. That of ``okapi`` may be negative: it has a floor, which is not
    applied here."""
    if variant is Variant.LUCENE:
        return math.log1p((documents - df + 0.5) / (df + 0.5))
    if variant is Variant.OKAPI:
        return math.log(documents - df + 0.5) - math.log(df + 0.5)
    if variant is Variant.PLUS:
        return math.log((documents + 1) / df)
    return math.log(documents + 1) - math.log(df + 0.5)


def share(documents: int, df: int) -> float:
    """How much a word tells about a document, whatever the variant. Never negative, also for words in no document."""
    return math.log1p((documents - df + 0.5) / (df + 0.5))


def mean_okapi_idf(documents: int, frequencies: NDArray[np.int64]) -> float:
    """The mean over all words, summed in the order of ``frequencies``. It is rank_bm25's to the last digit if that is
    the order in which the words first appear."""
    if not len(frequencies):
        return 0.0
    distinct, inverse = np.unique(frequencies, return_inverse=True)
    each = np.array([idf(Variant.OKAPI, documents, int(df)) for df in distinct])
    return float(np.add.accumulate(each[inverse])[-1]) / len(frequencies)


def _delta(options: KeywordOptions) -> float:
    if options.delta is not None:
        return options.delta
    return 1.0 if options.variant is Variant.PLUS else 0.5
