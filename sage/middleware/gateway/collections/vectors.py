"""Vectors and scores out of an upstream's answer, in OpenAI's shape and in Cohere's."""

from __future__ import annotations

import binascii
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sage.errors import UpstreamFailed


def read_vectors(answer: bytes, count: int, model: str) -> NDArray[np.float32]:
    """``(count, dimension) float32`` from an OpenAI list of embeddings, in the order of their ``index``; numbers, or
    base64 of little-endian float32. Raises :class:`UpstreamFailed` for what is not ``count`` vectors of finite numbers.
    """
    items = _by_index(answer, "data", count, model)
    try:
        rows = [_vector(item["embedding"]) for item in items]
        vectors = np.stack(rows)
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error) as exc:
        raise _malformed(model, "vectors of one dimension") from exc
    if vectors.ndim != 2 or not vectors.shape[1] or not np.isfinite(vectors).all():
        raise _malformed(model, "vectors of finite numbers")
    return vectors


def read_scores(answer: bytes, count: int, model: str) -> list[float]:
    """The scores of ``count`` documents in their own order, from Cohere's order of them. Raises
    :class:`UpstreamFailed` unless there is one finite score for each."""
    items = _by_index(answer, "results", count, model)
    scores = [item.get("relevance_score") for item in items]
    if not all(isinstance(score, int | float) and np.isfinite(score) for score in scores):
        raise _malformed(model, "finite scores")
    return [float(score) for score in scores if score is not None]


def _by_index(answer: bytes, field: str, count: int, model: str) -> list[dict[str, Any]]:
    try:
        entries = orjson.loads(answer)[field]
        items = sorted(entries, key=lambda item: item["index"])
    except (KeyError, TypeError, ValueError) as exc:
        raise _malformed(model, f"a list '{field}'") from exc
    if [item["index"] for item in items] != list(range(count)):
        raise _malformed(model, f"one entry for each of the {count} texts")
    return items


def _vector(value: Any) -> NDArray[np.float32]:
    if isinstance(value, str):
        return np.frombuffer(binascii.a2b_base64(value, strict_mode=True), dtype="<f4").astype(np.float32)
    if not all(type(number) in (int, float) for number in value):
        raise TypeError("a vector holds something else than numbers")
    with np.errstate(over="ignore"):
        return np.asarray(value, dtype=np.float64).astype(np.float32)


def _malformed(model: str, expected: str) -> UpstreamFailed:
    return UpstreamFailed(f"model '{model}' did not answer with {expected}", code="upstream_nonsense")
