"""The vectors of recent queries: users page through results, and batches repeat queries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_SIZE = 1024
_MAX_CHARACTERS = 1024

Vectors = NDArray[np.float32]


class QueryCache:
    """Safe to call from several threads."""

    def __init__(self, size: int = _SIZE) -> None:
        self._size = size
        self._vectors: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], embed: Callable[[Sequence[str]], Vectors]) -> Vectors:
        """The vectors of ``texts``; ``embed`` makes those that are not kept here."""
        vectors = [self.get(text) for text in texts]
        missing = [index for index, vector in enumerate(vectors) if vector is None]
        for index, vector in zip(missing, embed([texts[index] for index in missing]) if missing else (), strict=True):
            self.put(texts[index], vector)
            vectors[index] = vector
        return np.stack([vector for vector in vectors if vector is not None]) if vectors else embed(())

    def get(self, text: str) -> Vectors | None:
        """``None`` means that it is not kept."""
        with self._lock:
            vector = self._vectors.get(text)
            if vector is not None:
                self._vectors.move_to_end(text)
            return vector

    def put(self, text: str, vector: Vectors) -> None:
        """Keeps it until so many others were used later."""
        if len(text) > _MAX_CHARACTERS:
            return
        with self._lock:
            self._vectors[text] = vector.copy()  # a row of a larger array would keep all of that
            self._vectors.move_to_end(text)
            if len(self._vectors) > self._size:
                self._vectors.popitem(last=False)
