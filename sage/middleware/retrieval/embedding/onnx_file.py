"""Reads the arrays of a model in ONNX's format, which is a protocol buffer.

The numbers of the fields are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KINDS = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # how a field's value is written
_GRAPH, _CONSTANT = 7, 5
_SIZES, _KIND, _NAME, _NUMBERS = 1, 2, 8, 9


def onnx_arrays(content: bytes) -> dict[str, NDArray[Any]]:
    """The constants of the graph by name, in the file's order: views of ``content``, which is what it should be.

    Constants that are written in another way than as raw bytes are left out.
    """
    constants = [
        list(_fields(constant))
        for graph_field, graph in _fields(memoryview(content))
        if graph_field == _GRAPH
        for field, constant in _fields(graph)
        if field == _CONSTANT
    ]
    return dict(_array(fields) for fields in constants if _NUMBERS in dict(fields))


def _array(fields: list[tuple[int, Any]]) -> tuple[str, NDArray[Any]]:
    parts = dict(fields)
    sizes = [value for field, value in fields if field == _SIZES]
    numbers = np.frombuffer(parts[_NUMBERS], _KINDS[parts[_KIND]]).reshape(sizes)
    return bytes(parts[_NAME]).decode(), numbers


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """The number of each field, and its value: a whole number, or bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, place = _varint(message, place)
        else:
            size = {_EIGHT: 8, _FOUR: 4}[kind]
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The number, and where the next field begins."""
    number = shift = 0
    while True:
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, place
