"""The vectors of a segment as searches use them: by the ordinals of documents, of which not all have a vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Arrays, Mask
from sage.middleware.retrieval.vectors.exact import Matrix, Ordinals
from sage.middleware.retrieval.vectors.kinds import build_scan, restore_scan
from sage.middleware.retrieval.vectors.scan import Scan
from sage.middleware.settings.retrieval import Metric

NO_VECTORS = "none"


class VectorIndex:
    """Immutable. Ordinals are those of the segment.

    Scores are cosine, inner product, or the negative Euclidean distance: higher is nearer. Those of kinds that keep
    codes are close to the exact ones (1e-3 of the range in SQ8); a search computes the exact ones later.
    """

    def __init__(
        self,
        size: int,
        metric: Metric,
        scan: Scan | None,
        places: NDArray[np.int32] | None,
        mapped: Matrix | None = None,
    ) -> None:
        """``size`` counts documents. ``places`` are the ordinals of those that have a vector, ascending; ``None`` means
        all of them. ``scan`` is ``None`` when there are no vectors. ``mapped`` are the vectors as they are, beside a
        scan that keeps only codes of them; ``None`` means that the document store has them."""
        self._size, self.metric, self._scan, self._places, self._mapped = size, metric, scan, places, mapped

    @classmethod
    def build(
        cls,
        vectors: Matrix,
        present: Mask | None,
        metric: Metric,
        target_recall: float,
        *,
        kind: str | None = None,
        mapped: bool = False,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> VectorIndex:
        """The index of ``(n, dim)`` vectors. ``present`` ``(n,)`` says which documents have one, ``None`` means all;
        the rows of the others are ignored. With cosine, vectors are normalised here, and rows of zeros score 0.

        ``kind`` is the first one that is tried; ``None`` means by the number of vectors. A kind that finds less than
        ``target_recall`` of these vectors' true neighbours gives way to a more exact one. ``mapped``: also keep the
        vectors as they are. ``checkpoint`` is called now and then and may raise.
        """
        size, places = len(vectors), None
        if present is not None and not present.all():
            places = np.flatnonzero(present).astype(np.int32)
            vectors = vectors[places]
        if not len(vectors):
            return cls(size, metric, None, places)
        scan = build_scan(vectors, metric, target_recall, kind, checkpoint)
        kept = np.ascontiguousarray(vectors, np.float32) if mapped and not scan.exact else None
        return cls(size, metric, scan, places, kept)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> VectorIndex:
        """The inverse of :meth:`arrays`, without copying. The caller has checked that the bytes are those that were
        written."""
        head = orjson.loads(arrays["head"].tobytes())
        metric, kind = Metric(head["metric"]), head["kind"]
        scan = None if kind == NO_VECTORS else restore_scan(kind, head, arrays, metric)
        return cls(head["size"], metric, scan, arrays.get("places"), arrays.get("mapped"))

    def arrays(self) -> Arrays:
        """What :meth:`from_arrays` needs."""
        head: dict[str, Any] = {"kind": self.kind, "metric": self.metric.value, "size": self._size}
        arrays: Arrays = {}
        if self._scan is not None:
            head |= self._scan.head()
            arrays |= self._scan.arrays()
        if self._places is not None:
            arrays["places"] = self._places
        if self._mapped is not None:
            arrays["mapped"] = self._mapped
        arrays["head"] = np.frombuffer(orjson.dumps(head), np.uint8)
        return arrays

    @property
    def kind(self) -> str:
        """The name of its row in :data:`~sage.middleware.retrieval.vectors.kinds.KINDS`; ``none`` without vectors."""
        return NO_VECTORS if self._scan is None else self._scan.kind

    @property
    def exact(self) -> bool:
        """Whether it keeps the vectors as they are, and compares them all."""
        return self._scan is None or self._scan.exact

    @property
    def staged(self) -> bool:
        """Whether its first stage takes only some of the vectors, so that a larger ``k`` may find better ones."""
        return self._scan is not None and self._scan.staged

    @property
    def size(self) -> int:
        """Documents of the segment, with a vector or without."""
        return self._size

    @property
    def present(self) -> Mask | None:
        """``(size,)``: which documents have a vector; ``None`` means all."""
        if self._places is None and self._scan is not None:
            return None
        mask = np.zeros(self._size, np.bool_)
        mask[self._places if self._places is not None else slice(0, 0)] = True
        return mask

    def count(self, allowed: Mask | None) -> int:
        """How many of those that ``allowed`` lets through have a vector."""
        if self._scan is None:
            return 0
        if allowed is None:
            return self._scan.count
        return int(np.count_nonzero(allowed if self._places is None else allowed[self._places]))

    def search(self, query: Matrix, k: int, allowed: Mask | None) -> tuple[Ordinals, NDArray[np.float32]]:
        """``(ordinals, scores)`` of the ``k`` nearest of those that ``allowed`` ``(size,)`` lets through, best first,
        equal scores in the order of ordinals. ``query`` is ``(dim,)``. Picks the plan by how many are allowed."""
        ordinals, scores = self.candidates(query, k, allowed)
        return ordinals[:k], scores[:k]

    def candidates(self, query: Matrix, k: int, allowed: Mask | None) -> tuple[Ordinals, NDArray[np.float32]]:
        """As :meth:`search`, with some more, so that the ``k`` best by exact score are among them."""
        if self._scan is None or k <= 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if self.metric is Metric.COSINE and not query.any():
            return self._oldest(k, allowed)
        if allowed is not None:
            allowed = allowed if self._places is None else allowed[self._places]
            allowed = None if allowed.all() else allowed
        ordinals, scores = self._scan.nearest(query, k, allowed)
        return (ordinals if self._places is None else self._places[ordinals].astype(np.int64)), scores

    def _oldest(self, k: int, allowed: Mask | None) -> tuple[Ordinals, NDArray[np.float32]]:
        """The answer to a query of zeros: all vectors are equally near, at 0."""
        places = np.arange(self._size) if self._places is None else self._places
        chosen = places[:k] if allowed is None else places[allowed[places]][:k]
        return chosen.astype(np.int64), np.zeros(len(chosen), np.float32)

    def scores(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float32]:
        """The score of each; NaN where there is no vector. The same numbers as :meth:`search` gives."""
        scores = np.full(len(ordinals), np.nan, np.float32)
        if self._scan is not None:
            places, has_vector = self._places_of(ordinals)
            scores[has_vector] = self._scan.scores(query, places[has_vector])
        return scores

    @property
    def has_errors(self) -> bool:
        """Whether :meth:`errors` are known, or it has the vectors themselves."""
        return self._scan is None or self._mapped is not None or self._scan.exact or self._scan.has_errors

    def errors(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float64]:
        """How far :meth:`scores` may be from the exact ones at most."""
        errors = np.zeros(len(ordinals))
        if self._scan is not None:
            places, has_vector = self._places_of(ordinals)
            errors[has_vector] = self._scan.errors(query, places[has_vector])
        return errors

    def raw_vectors(self, ordinals: Ordinals) -> tuple[Matrix, Mask] | None:
        """``((n, dim), (n,))``: the vectors as they are, and which documents have one; ``None`` means that only codes
        are kept here."""
        if self._mapped is not None:
            if self._places is None:
                return self._mapped[ordinals], np.ones(len(ordinals), np.bool_)
            places, has_vector = self._places_of(ordinals)
            return self._mapped[np.where(has_vector, places, 0)], has_vector
        if self._scan is None:
            return np.empty((len(ordinals), 0), np.float32), np.zeros(len(ordinals), np.bool_)
        places, has_vector = self._places_of(ordinals)
        vectors = self._scan.raw_vectors(np.where(has_vector, places, 0))
        return None if vectors is None else (vectors, has_vector)

    def _places_of(self, ordinals: Ordinals) -> tuple[Ordinals, Mask]:
        """Where the vectors of these documents stand among all vectors, and which documents have one."""
        if self._places is None:
            return ordinals, np.ones(len(ordinals), np.bool_)
        places = np.searchsorted(self._places, ordinals)
        has_vector = places < len(self._places)
        has_vector[has_vector] = self._places[places[has_vector]] == ordinals[has_vector]
        return places, has_vector
