"""BM25: what a word in a document is worth. Formulas, and the statistics they need.

With ``tf`` how often the word stands in the document, ``dl`` the document's length in terms, ``avgdl`` the mean of the
live documents, ``N`` how many of them there are, ``df`` how many of them hold the word, and
``B = 1 - b + b · dl / avgdl``, a document's score is the sum over the words of the query that stand in it (a word that
the query repeats counts as often) of

========  =====================================  =========================================================
lucene    ``ln(1 + (N - df + ½) / (df + ½))``    ``tf / (tf + k1·B)`` (Lucene 8 and later)
okapi     ``ln((N - df + ½) / (df + ½))``, and   ``tf·(k1 + 1) / (tf + k1·B)`` (Robertson 1994, with the floor of
          where that is negative ``epsilon`` ·   rank_bm25.BM25Okapi, to which it is equal)
          its mean over all words
plus      ``ln((N + 1) / df)``                   ``delta + tf·(k1 + 1) / (tf + k1·B)``
l         ``ln((N + 1) / (df + ½))``             ``(k1 + 1)·(c + delta) / (k1 + c + delta)`` with ``c = tf / B``
========  =====================================  =========================================================

plus: Lv and Zhai, *Lower-bounding term frequency normalization*, CIKM 2011; l: Lv and Zhai, *When documents are very
long, BM25 fails!*, SIGIR 2011. Both add ``delta`` only for words that stand in the document, as the papers do.
rank_bm25's BM25Plus adds it for the others too (one constant for all documents, so the order is that of no ``delta``),
and its BM25L multiplies by ``tf`` once more: scores are equal to its where a document holds every word of the query
(plus) and where words stand once (l).
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
class Collected:
    """Over the live documents of a view."""

    documents: int
    length: int
    """Of all of them together, in terms."""

    @property
    def mean_length(self) -> float:
        return self.length / self.documents if self.documents else 0.0


@dataclass(frozen=True, slots=True)
class Counted:
    """Statistics of more documents than one view has, for the words of a query."""

    collected: Collected
    df: Mapping[str, int]
    """How many of those documents hold each word."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The part of a score that is a matter of the document: ``(tf + rise·B) / (tf + bend·B)`` with
    ``B = flat + slope·dl``; a word's weight multiplies it, and its base is added."""

    flat: float
    slope: float
    rise: float
    bend: float

    def of(self, frequencies: Floats, lengths: Floats) -> Floats:
        norm = self.flat + self.slope * lengths
        return (frequencies + self.rise * norm) / (frequencies + self.bend * norm)


def curve(options: KeywordOptions, collected: Collected) -> Curve:
    mean = collected.mean_length
    slope = options.b / mean if mean else 0.0
    rise = _delta(options) if options.variant is Variant.L else 0.0
    return Curve(1.0 - options.b, slope, rise, options.k1 + rise)


def weight(options: KeywordOptions, idf: float) -> tuple[float, float]:
    """``(weight, base)`` of a word with ``idf`` that the query holds once."""
    if options.variant is Variant.LUCENE:
        return idf, 0.0
    base = idf * _delta(options) if options.variant is Variant.PLUS else 0.0
    return idf * (options.k1 + 1.0), base


def idf(variant: Variant, documents: int, df: int) -> float:
    """Of a word that ``df`` ≥ 1 of ``documents`` hold; ``okapi``: may be negative, before its floor."""
    if variant is Variant.LUCENE:
        return math.log1p((documents - df + 0.5) / (df + 0.5))
    if variant is Variant.OKAPI:
        return math.log(documents - df + 0.5) - math.log(df + 0.5)
    if variant is Variant.PLUS:
        return math.log((documents + 1) / df)
    return math.log(documents + 1) - math.log(df + 0.5)


def share(documents: int, df: int) -> float:
    """How much a word says, whatever the variant: never negative, also for words that no document holds."""
    return math.log1p((documents - df + 0.5) / (df + 0.5))


def mean_okapi_idf(documents: int, frequencies: NDArray[np.int64]) -> float:
    """The mean over all words, summed one after the other in the order given: as rank_bm25 does, to the last digit
    where words are given as they first appear."""
    if not len(frequencies):
        return 0.0
    distinct, which = np.unique(frequencies, return_inverse=True)
    each = np.array([idf(Variant.OKAPI, documents, int(df)) for df in distinct])
    return float(np.add.accumulate(each[which])[-1]) / len(frequencies)


def _delta(options: KeywordOptions) -> float:
    if options.delta is not None:
        return options.delta
    return 1.0 if options.variant is Variant.PLUS else 0.5
