"""Embeddings as the caller asked for them, whatever the upstream made of it: the one rule for every kind of provider.

- The order is that of ``index``.
- ``encoding_format: base64`` gives base64, everything else numbers.
- ``dimensions`` gives vectors of that length. Where the upstream ignored it, longer vectors are cut and scaled to unit
  length if the model was trained for that (Matryoshka representation learning); otherwise the request is refused, since
  vectors of another length would only be found out by whatever stores them.

Source: OpenAI's API reference (embeddings), and the models' own documentation.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from typing import Any

from sage.errors import Unsupported, UpstreamFailed
from sage.middleware.providers.base import ModelCall

MATRYOSHKA = (
    "embed-v4",
    "embedding-3",  # also OpenAI's text-embedding-3-…
    "embeddinggemma",
    "gemini-embedding",
    "jina-embeddings-v3",
    "jina-embeddings-v4",
    "mxbai-embed-large",
    "nomic-embed-text",
    "qwen3-embedding",
    "snowflake-arctic-embed-m-v1.5",
    "snowflake-arctic-embed-m-v2",
    "snowflake-arctic-embed-l-v2",
    "snowflake-arctic-embed2",
    "text-embedding-v3",
    "text-embedding-v4",
)
"""Parts of the names of models whose vectors may be cut."""
_OTHER_TYPES = ("embedding_type", "embedding_types", "output_dtype")
"""Fields of vendors that ask for vectors that are neither float numbers nor base64 of them."""


def normalise_embeddings(call: ModelCall, data: list[dict[str, Any]], model: Any, dimensions: Any) -> bool:
    """Makes ``data`` what ``call`` asked for, in place, and tells whether it changed.

    ``model`` is the upstream's name for what it used. ``dimensions`` is the length that was asked of the upstream;
    ``None`` means none was. Raises :class:`Unsupported` where it ignored that and the vectors may not be cut.
    """
    _check_number(call, data)
    changed = _put_in_order(data)
    encoding = call.body.get("encoding_format")
    if encoding not in (None, "float", "base64") or any(call.body.get(field) for field in _OTHER_TYPES):
        return changed
    for item in data:
        vector = item.get("embedding")
        if dimensions is not None:
            vector = of_length(vector, dimensions, call.model, model)
        if not isinstance(vector, list | str):
            raise _nonsense(call.model)
        vector = encoded(vector, as_base64=encoding == "base64", name=call.model)
        if vector is not item.get("embedding"):
            item["embedding"], changed = vector, True
    return changed


def _check_number(call: ModelCall, data: list[dict[str, Any]]) -> None:
    """Raises :class:`UpstreamFailed` unless there is a vector for each text; a list of tokens is one text."""
    texts = call.body.get("input")
    wanted = len(texts) if isinstance(texts, list) and not (texts and isinstance(texts[0], int)) else 1
    if "input" in call.body and len(data) != wanted:
        raise UpstreamFailed(
            f"the upstream of model '{call.model}' sent {len(data)} vectors for {wanted} texts",
            code="upstream_nonsense",
        )


def _put_in_order(data: list[dict[str, Any]]) -> bool:
    """Sorts ``data`` by ``index``, unless some have none."""
    last, ordered = -1, True
    for item in data:
        index = item.get("index")
        if type(index) is not int:
            return False
        ordered = ordered and index >= last
        last = index
    if not ordered:
        data.sort(key=lambda item: item["index"])
    return not ordered


def of_length(vector: Any, dimensions: Any, name: str, model: Any = None) -> Any:
    """``vector`` with that many numbers; it stays the same object if it has them. ``name`` is the public model's."""
    if type(dimensions) is not int or dimensions < 1 or not isinstance(vector, list | str):
        return vector
    length = len(vector) if isinstance(vector, list) else _length(vector)
    if length == dimensions:
        return vector
    known = f"{model if isinstance(model, str) else ''} {name}".lower()
    if length < dimensions or not any(part in known for part in MATRYOSHKA):
        raise Unsupported(
            f"model '{name}' made vectors of {length} numbers though 'dimensions' asked for {dimensions}; leave "
            "'dimensions' out, or ask a model whose vectors may be cut",
            param="dimensions",
        )
    return _cut(vector if isinstance(vector, list) else decode(vector, name), dimensions, name)


def encoded(vector: Any, *, as_base64: bool, name: str) -> Any:
    """``vector`` of the model ``name`` in that form; it stays the same object if it has it, or is no vector at all."""
    if isinstance(vector, list) and as_base64:
        return encode(vector, name)
    return decode(vector, name) if isinstance(vector, str) and not as_base64 else vector


def _cut(vector: list[float], dimensions: int, name: str) -> list[float]:
    """The first numbers of ``vector``, scaled to unit length."""
    try:
        first = vector[:dimensions]
        length = math.sqrt(math.fsum(number * number for number in first))
        return [number / length for number in first] if length else first
    except (TypeError, OverflowError) as exc:
        raise _nonsense(name) from exc


def encode(vector: list[float], name: str) -> str:
    """``vector`` as OpenAI and Cohere encode it: float32, little-endian, in base64."""
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (struct.error, OverflowError, TypeError) as exc:
        raise _nonsense(name) from exc


def decode(vector: str, name: str) -> list[float]:
    """The numbers of a vector that :func:`encode` encoded."""
    try:
        data = base64.b64decode(vector, validate=True)
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    except (binascii.Error, ValueError, struct.error) as exc:
        raise _nonsense(name) from exc


def _length(vector: str) -> int:
    """How many numbers the base64 holds."""
    return (len(vector.rstrip("=")) * 3 // 4) // 4


def _nonsense(name: str) -> UpstreamFailed:
    return UpstreamFailed(
        f"the upstream of model '{name}' sent something that is no vector of float32 numbers", code="upstream_nonsense"
    )
