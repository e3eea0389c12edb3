"""Writes a model in ONNX's format, which is a protocol buffer: so much of it as a graph for onnxruntime needs.

The numbers of the fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's own operators."""
_DATA_TYPES = {"float32": 1, "int8": 3, "int64": 7}
_FORMAT, _OPERATORS = 9, 17  # versions that every onnxruntime since 1.14 reads
_VARINT, _BYTES, _FLOAT = 0, 2, 5  # how a field's value is written


@dataclass(frozen=True, slots=True)
class GraphValue:
    """What goes into a model or comes out of it. A size that is a text differs between runs."""

    name: str
    sizes: tuple[int | str, ...]
    kind: str = "float32"


class OnnxGraph:
    """A graph that grows by one operator at a time; every value has a name."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: list[bytes] = []

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Adds an array; returns its name."""
        dimensions = b"".join(_number(1, size) for size in array.shape)
        data_type = _number(2, _DATA_TYPES[array.dtype.name])
        self._constants.append(
            dimensions + data_type + _text(8, name) + _field(9, np.ascontiguousarray(array).tobytes())
        )
        return name

    def external(self, name: str, shape: Sequence[int], location: str) -> str:
        """Adds an array of float32 whose numbers are in the file at ``location``, from the model's directory."""
        dimensions = b"".join(_number(1, size) for size in shape)
        place = _field(13, _text(1, "location") + _text(2, location))
        self._constants.append(
            dimensions + _number(2, _DATA_TYPES["float32"]) + _text(8, name) + place + _number(14, 1)
        )
        return name

    def add(
        self, operator: str, inputs: Sequence[str], *outputs: str, domain: str = "", **attributes: int | float
    ) -> str:
        """Adds an operator; returns the name of its first output."""
        values = [_text(1, name) for name in inputs] + [_text(2, name) for name in outputs]
        details = [_field(5, _attribute(name, value)) for name, value in attributes.items()]
        self._nodes.append(b"".join([*values, _text(4, operator), *details, _text(7, domain)]))
        return outputs[0]

    def model(self, inputs: Sequence[GraphValue], outputs: Sequence[GraphValue]) -> bytes:
        """The whole model, from ``inputs`` to ``outputs``."""
        nodes = [_field(1, node) for node in self._nodes]
        constants = [_field(5, constant) for constant in self._constants]
        values = [_field(11, _value(value)) for value in inputs] + [_field(12, _value(value)) for value in outputs]
        graph = b"".join([*nodes, _text(2, "graph"), *constants, *values])
        domains = [
            _field(8, _text(1, name) + _number(2, version)) for name, version in (("", _OPERATORS), (MICROSOFT, 1))
        ]
        return b"".join([_number(1, _FORMAT), _field(7, graph), *domains])


def _value(value: GraphValue) -> bytes:
    sizes = (_text(2, size) if isinstance(size, str) else _number(1, size) for size in value.sizes)
    shape = b"".join(_field(1, size) for size in sizes)
    tensor = _number(1, _DATA_TYPES[value.kind]) + _field(2, shape)
    return _text(1, value.name) + _field(2, _field(1, tensor))


def _attribute(name: str, value: int | float) -> bytes:
    if isinstance(value, int):
        return _text(1, name) + _number(3, value) + _number(20, 2)
    return _text(1, name) + _varint(2 << 3 | _FLOAT) + struct.pack("<f", value) + _number(20, 1)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _field(field, value.encode())


def _field(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers in 64 bits."""
    value &= 2**64 - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
