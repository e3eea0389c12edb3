"""What makes vectors of texts, and what puts texts in order: protocols, so that nothing of the registry is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Embedder(Protocol):
    """Makes a vector of a text. Safe to call from several threads."""

    @property
    def name(self) -> str:
        """What it is, exactly enough that vectors of equal names are comparable (``local/minilm-l6-v2-int8``)."""

    @property
    def dimension(self) -> int | None:
        """Of its vectors; ``None``: known with the first."""

    @property
    def languages(self) -> frozenset[str] | None:
        """ISO 639-1 codes of the languages it speaks; ``None``: not known to be limited."""

    def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """``(len(texts), dimension) float32``. ``query``: the texts are questions, not documents.

        Raises :class:`sage.errors.SageError` when it cannot.
        """


class Reranker(Protocol):
    """Says how well texts answer a query."""

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score a text, higher is better. Raises :class:`sage.errors.SageError` when it cannot."""


class Models(Protocol):
    """Where names of embedders and rerankers are looked up; ``app`` hands one in."""

    def embedder(self, name: str) -> Embedder | None:
        """``auto`` and ``none`` may give none. Raises :class:`sage.errors.SageError` for a name that is none."""

    def reranker(self, name: str) -> Reranker: ...


EmbedFunction = Callable[[list[str]], NDArray[np.float32]]
