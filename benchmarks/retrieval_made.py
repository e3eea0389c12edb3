"""Documents and queries made on the spot: words as Zipf has them, vectors that crowd as real ones do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORDS = 60
"""Of a document."""
_VOCABULARY = 50_000
_EXPONENT = 1.05
_CHUNK = 2_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """Documents ``first…``: their ids are ``d0``, ``d1``…"""

    first: int
    words: list[list[str]]
    vectors: NDArray[np.float32]
    buckets: NDArray[np.int64]
    """A number from 0 to 99 each, to filter by."""

    @property
    def ids(self) -> list[str]:
        return [f"d{self.first + place}" for place in range(len(self.words))]

    @property
    def texts(self) -> list[str]:
        return [" ".join(words) for words in self.words]


@dataclass(frozen=True, slots=True)
class Asked:
    words: list[str]
    vector: NDArray[np.float32]


class Made:
    """``size`` documents, the same ones each time they are asked for. ``real``: embeddings to perturb copies of."""

    def __init__(self, size: int, real: NDArray[np.float32] | None, dimension: int = 384) -> None:
        self.size = size
        random = np.random.default_rng(1)
        self._base = _centres(random, dimension) if real is None else real
        self.dimension = self._base.shape[1]
        weights = np.arange(1, _VOCABULARY + 1) ** -_EXPONENT
        self._cumulated = np.cumsum(weights / weights.sum())
        self._names = np.array([f"w{place}" for place in range(_VOCABULARY + 1)], object)

    def chunks(self) -> Iterator[Chunk]:
        for first in range(0, self.size, _CHUNK):
            random = np.random.default_rng((2, first))
            count = min(_CHUNK, self.size - first)
            words = self._names[self._drawn(random, count * WORDS)].reshape(count, WORDS).tolist()
            yield Chunk(first, words, self._near(random, count), random.integers(0, 100, count))

    def asked(self, count: int) -> list[Asked]:
        """Queries of 2 to 5 different words."""
        random = np.random.default_rng(3)
        vectors = self._near(random, count)
        found = []
        for vector in vectors:
            words: list[str] = []
            wanted = int(random.integers(2, 6))
            while len(words) < wanted:
                word = self._names[self._drawn(random, 1)[0]]
                if word not in words:
                    words.append(word)
            found.append(Asked(words, vector))
        return found

    def _drawn(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        return np.searchsorted(self._cumulated, random.random(count))

    def _near(self, random: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Copies of real embeddings, each moved by about half of its length in a direction of its own."""
        base = self._base[random.integers(0, len(self._base), count)]
        noise = random.standard_normal(base.shape, np.float32) * np.float32(0.5 / np.sqrt(self.dimension))
        moved = base + noise
        return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), np.float32)


def _centres(random: np.random.Generator, dimension: int) -> NDArray[np.float32]:
    found = random.standard_normal((2000, dimension), np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


class Nearest:
    """The true nearest neighbours (cosine) of each query, kept up while documents pass by."""

    def __init__(self, asked: list[Asked], depth: int) -> None:
        self._queries = np.stack([each.vector for each in asked])
        self._depth = depth
        self._scores = np.empty((len(asked), 0), np.float32)
        self._ids = np.empty((len(asked), 0), np.int64)

    def pass_by(self, chunk: Chunk) -> None:
        scores = np.concatenate((self._scores, self._queries @ chunk.vectors.T), axis=1)
        new = np.broadcast_to(
            np.arange(chunk.first, chunk.first + len(chunk.words)), (len(self._queries), len(chunk.words))
        )
        ids = np.concatenate((self._ids, new), axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self._depth]
        self._scores = np.take_along_axis(scores, order, axis=1)
        self._ids = np.take_along_axis(ids, order, axis=1)

    def ids(self) -> list[set[str]]:
        return [{f"d{place}" for place in row} for row in self._ids.tolist()]
