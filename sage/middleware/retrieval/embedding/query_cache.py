"""The vectors of recent queries: users page through results, and batches repeat queries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_SIZE = 1024
_MAX_CHARACTERS = 1024
_MAX_BYTES = 4 * 2**20

Vectors = NDArray[np.float32]


class QueryCache:
    """By their texts, for one embedder. Safe to call from several threads.

    Texts of different ``owner``s are kept apart: nobody learns from the time of an answer what others have asked.
    """

    def __init__(self, size: int = _SIZE, max_bytes: int = _MAX_BYTES) -> None:
        """Keeps up to ``size`` vectors, of ``max_bytes`` together."""
        self._size = size
        self._max_bytes = max_bytes
        self._vectors: OrderedDict[tuple[str, str], Vectors] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], embed: Callable[[Sequence[str]], Vectors], owner: str = "") -> Vectors:
        """The vectors of ``texts``; ``embed`` makes those that are not kept here."""
        vectors = [self.get(text, owner) for text in texts]
        missing = [index for index, vector in enumerate(vectors) if vector is None]
        for index, vector in zip(missing, embed([texts[index] for index in missing]) if missing else (), strict=True):
            self.put(texts[index], vector, owner)
            vectors[index] = vector
        return np.stack([vector for vector in vectors if vector is not None]) if vectors else embed(())

    def get(self, text: str, owner: str = "") -> Vectors | None:
        """``None`` means that it is not kept."""
        with self._lock:
            vector = self._vectors.get((owner, text))
            if vector is not None:
                self._vectors.move_to_end((owner, text))
            return vector

    def put(self, text: str, vector: Vectors, owner: str = "") -> None:
        """Keeps it until so many others were used later."""
        if len(text) > _MAX_CHARACTERS:
            return
        with self._lock:
            replaced = self._vectors.pop((owner, text), None)
            self._vectors[owner, text] = vector.copy()  # a row of a larger array would keep all of that
            self._bytes += vector.nbytes - (0 if replaced is None else replaced.nbytes)
            while len(self._vectors) > self._size or self._bytes > self._max_bytes:
                self._bytes -= self._vectors.popitem(last=False)[1].nbytes
