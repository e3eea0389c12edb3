"""Protocols of embedders and rerankers, so that retrieval does not depend on the registry of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Embedder(Protocol):
    """Makes a vector of a text. Safe to call from several threads."""

    @property
    def name(self) -> str:
        """Exact enough that vectors of one name are comparable (``local/minilm-l6-v2-int8x8``)."""

    @property
    def dimension(self) -> int | None:
        """Of its vectors; ``None`` means that it is not known before the first vector."""

    @property
    def languages(self) -> frozenset[str] | None:
        """ISO 639-1 codes of the languages that it knows; ``None`` means that no limit is known."""

    def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """``(len(texts), dimension) float32``. ``query`` means that the texts are queries, not documents.

        Raises :class:`sage.errors.SageError` when it cannot.
        """


class Reranker(Protocol):
    """Scores how well texts answer a query."""

    def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score a text, higher is better. Raises :class:`sage.errors.SageError` when it cannot."""


class Models(Protocol):
    """Where embedders and rerankers are looked up by name."""

    def embedder(self, name: str) -> Embedder | None:
        """``None`` for ``none``, perhaps for ``auto``. Raises :class:`sage.errors.SageError` for an unknown name."""

    def reranker(self, name: str) -> Reranker: ...


EmbedFunction = Callable[[list[str]], NDArray[np.float32]]
