"""What every kind of vector index offers. How one is added: a class like this one, and a row in
:data:`sage.middleware.retrieval.vectors.kinds.KINDS`.

A *scan* finds candidates: the best ones by what it keeps of the vectors, with some more than were asked for, so that
the best by exact score are among them. Its vectors are counted from 0 without gaps. FAISS answers on one thread, and
many threads may search at once: what differs between searches goes in as search parameters, never as attributes of
the index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Arrays, Mask
from sage.middleware.retrieval.vectors.exact import Matrix, Ordinals
from sage.middleware.settings.retrieval import Metric

Found = tuple[Ordinals, NDArray[np.float32]]
"""Ordinals and their scores, best first."""

DEPTHS = (10, 50, 100)
"""The values of ``k`` for which a staged kind measures how widely it has to search. A hybrid search takes the middle
one: see :data:`sage.middleware.retrieval.query.hybrid.FIRST`."""


class Scan(Protocol):
    """The vectors of a segment, without gaps. Immutable; safe to search from several threads."""

    @property
    def kind(self) -> str:
        """Its name in :data:`KINDS`, in files and in what a collection says of itself."""

    @property
    def count(self) -> int:
        """How many vectors there are."""

    @property
    def exact(self) -> bool:
        """Whether it keeps the vectors as they are, and compares them all."""

    @property
    def staged(self) -> bool:
        """Whether its first stage takes only some of the vectors, so that a larger ``k`` may find better ones."""

    def nearest(self, query: Matrix, k: int, allowed: Mask | None) -> Found:
        """``k`` or more of the nearest, best first, equal ones in the order of ordinals; fewer where fewer are
        allowed. ``query`` is not normalised; it is float32-safe, and not zero with cosine."""

    def scores(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float32]:
        """``(n,)``: the score of each, as :meth:`nearest` gives it."""

    @property
    def has_errors(self) -> bool:
        """Whether :meth:`errors` are known."""

    def errors(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float64]:
        """``(n,)``: how far each of :meth:`scores` may be from the exact score at most. Not for distances."""

    def raw_vectors(self, ordinals: Ordinals) -> Matrix | None:
        """``(n, dim)``: the vectors as they are; ``None`` means that this kind keeps only codes of them."""

    def head(self) -> dict[str, Any]:
        """What :meth:`restore` needs besides the arrays, as JSON values. The format of files depends on its keys."""

    def arrays(self) -> Arrays:
        """What is written to the file; the names ``head`` and ``places`` are taken."""

    @classmethod
    def restore(cls, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], metric: Metric) -> Self:
        """The inverse of :meth:`head` and :meth:`arrays`; uses the arrays without copying them, and they may be a
        mapped file. Raises :class:`KeyError`, :class:`TypeError` or :class:`ValueError` when something is missing."""


def pool_of(k: int) -> int:
    """How many candidates by code to take for the ``k`` best by exact score. With 10 % more, recall is 1.0000 on
    MiniLM vectors in SQ8 (without: .99), at 10 and at 100."""
    return k + max(8, k // 8)
