"""The vectors of one segment of a collection, and FAISS over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.middleware.retrieval.keywords.postings import Arrays, Mask
from sage.middleware.retrieval.vectors.builder import build_scan
from sage.middleware.retrieval.vectors.exact import Matrix, Ordinals, exact_scores
from sage.middleware.retrieval.vectors.kinds import Coded, Flat, ProbeSetting, Scan, Staged, float32_safe, lengths_of
from sage.middleware.settings.retrieval import Metric


class VectorIndex:
    """Immutable. Ordinals are the segment's; not every document needs a vector.

    Scores: cosine, inner product, or the Euclidean distance made negative: higher is nearer. Those of kinds that keep
    codes are near the exact ones (1e-3 of the range in SQ8); :class:`DenseLeg` makes them exact.
    """

    def __init__(self, size: int, metric: Metric, scan: Scan | None, places: NDArray[np.int32] | None) -> None:
        """``places``: of each vector, the document's ordinal, ascending; ``None``: every document has one."""
        self._size, self.metric, self._scan, self._places = size, metric, scan, places

    @classmethod
    def build(
        cls,
        vectors: Matrix,
        present: Mask | None,
        metric: Metric,
        target_recall: float,
        *,
        kind: str | None = None,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> VectorIndex:
        """Of ``(n, dim)`` vectors; ``present`` ``(n,)`` says which documents have one (``None``: all), the rows of the
        others are ignored. ``kind``: none: chosen by size. Cosine: normalised here, rows of zeros score 0.

        A kind that finds less than ``target_recall`` of these vectors' true neighbours gives way to a more exact one.
        ``checkpoint`` is called now and then and may raise.
        """
        size, places = len(vectors), None
        if present is not None and not present.all():
            places = np.flatnonzero(present).astype(np.int32)
            vectors = vectors[places]
        if not len(vectors):
            return cls(size, metric, None, places)
        return cls(size, metric, build_scan(vectors, metric, target_recall, kind, checkpoint), places)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> VectorIndex:
        """The inverse of :meth:`arrays`, without copying. The caller has checked that the bytes are those that were
        written."""
        head = orjson.loads(arrays["head"].tobytes())
        metric, kind = Metric(head["metric"]), head["kind"]
        scan: Scan | None = None
        if kind == "flat":
            scan = Flat(arrays["vectors"], arrays["lengths"], metric, head["tame"])
        elif kind != "none":
            scan = codes = Coded(arrays["codes"], metric, head["coding"])
            if "base" in arrays:
                scan = Staged(arrays["base"], codes, kind, [ProbeSetting(**setting) for setting in head["looks"]])
        return cls(head["size"], metric, scan, arrays.get("places"))

    def arrays(self) -> Arrays:
        """What :meth:`from_arrays` needs."""
        head: dict[str, Any] = {"kind": self.kind, "metric": self.metric.value, "size": self._size}
        found: Arrays = {} if self._scan is None else self._scan.arrays()
        if isinstance(self._scan, Flat):
            head["tame"] = self._scan.float32_safe
        elif isinstance(self._scan, Coded):
            head["coding"] = self._scan.kind
        elif isinstance(self._scan, Staged):
            head |= {"looks": [asdict(setting) for setting in self._scan.settings], "coding": self._scan.codes.kind}
        if self._places is not None:
            found["places"] = self._places
        found["head"] = np.frombuffer(orjson.dumps(head), np.uint8)
        return found

    @property
    def kind(self) -> str:
        """``none`` (no vectors), ``flat`` (float32, exact), ``sq8``, ``bf16``, ``rabitq`` or ``ivf``."""
        return "none" if self._scan is None else self._scan.kind

    @property
    def exact(self) -> bool:
        """Whether it keeps vectors as they were given, and compares them all."""
        return self.kind in ("none", "flat")

    @property
    def staged(self) -> bool:
        """Whether more may be found by looking for more: its first look takes only some."""
        return isinstance(self._scan, Staged)

    @property
    def size(self) -> int:
        """Documents of the segment, with a vector or without."""
        return self._size

    @property
    def present(self) -> Mask | None:
        """``(size,)``: which documents have a vector; ``None``: all."""
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
        """Of a query without direction: all are as near, at 0."""
        places = np.arange(self._size) if self._places is None else self._places
        chosen = places[:k] if allowed is None else places[allowed[places]][:k]
        return chosen.astype(np.int64), np.zeros(len(chosen), np.float32)

    def scores(self, query: Matrix, ordinals: Ordinals) -> NDArray[np.float32]:
        """The score of each; NaN where there is no vector. The same numbers as :meth:`search` gives."""
        found = np.full(len(ordinals), np.nan, np.float32)
        if self._scan is not None:
            places, there = self._found(ordinals)
            found[there] = self._scan.scores(query, places[there])
        return found

    def raw_vectors(self, ordinals: Ordinals) -> tuple[Matrix, Mask] | None:
        """``((n, dim), (n,))``: the vectors as they were given, and which documents have one; ``None``: this kind
        keeps only codes of them."""
        if self._scan is None:
            return np.empty((len(ordinals), 0), np.float32), np.zeros(len(ordinals), np.bool_)
        places, there = self._found(ordinals)
        vectors = self._scan.raw_vectors(np.where(there, places, 0))
        return None if vectors is None else (vectors, there)

    def _found(self, ordinals: Ordinals) -> tuple[Ordinals, Mask]:
        """Of documents: the places of their vectors, and which have one."""
        if self._places is None:
            return ordinals, np.ones(len(ordinals), np.bool_)
        places = np.searchsorted(self._places, ordinals)
        there = places < len(self._places)
        there[there] = self._places[places[there]] == ordinals[there]
        return places, there


class GrowingVectors:
    """The newest documents' vectors, exact. One thread appends while others read what they saw."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._size = self._count = 0
        self._float32_safe = True
        self._vectors = np.empty((0, 0), np.float32)
        self._lengths = np.empty(0, np.float32)
        self._places = np.empty(0, np.int32)
        self._counts: list[int] = [0]  # how many of the first n documents have a vector

    def append(self, vector: Matrix | None) -> None:
        self.extend([vector])

    def extend(self, vectors: Sequence[Matrix | None]) -> None:
        """Appends them all: a tenth of the cost of one by one."""
        rows = np.array([vector for vector in vectors if vector is not None], np.float32)
        there = np.array([vector is not None for vector in vectors], np.bool_)
        end = self._count + len(rows)
        if len(rows):
            if end > len(self._vectors):
                self._grow(end, rows.shape[1])
            self._vectors[self._count : end] = rows
            self._lengths[self._count : end] = lengths_of(rows)
            self._places[self._count : end] = self._size + np.flatnonzero(there)
            self._float32_safe = self._float32_safe and float32_safe(rows)
        self._counts += (self._count + np.cumsum(there)).tolist()
        self._count = end
        self._size += len(there)

    def _grow(self, wanted: int, width: int) -> None:
        room = max(64, 2 * self._count, wanted)
        vectors, lengths = np.zeros((room, width), np.float32), np.zeros(room, np.float32)
        places = np.zeros(room, np.int32)
        if self._count:
            vectors[: self._count], lengths[: self._count] = self._vectors[: self._count], self._lengths[: self._count]
            places[: self._count] = self._places[: self._count]
        # readers keep the arrays that they saw
        self._vectors, self._lengths, self._places = vectors, lengths, places

    def at(self, size: int) -> VectorIndex:
        """A ``flat`` index of the first ``size`` documents, made without copying them all each time."""
        count = self._counts[size]
        places = None if count == size else self._places[:count]
        if not count:
            return VectorIndex(size, self._metric, None, places)
        scan = Flat(self._vectors[:count], self._lengths[:count], self._metric, self._float32_safe)
        return VectorIndex(size, self._metric, scan, places)


__all__ = ["GrowingVectors", "Matrix", "VectorIndex", "exact_scores"]
