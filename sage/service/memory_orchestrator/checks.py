"""Checks of what callers give: names, contents, metadata, vectors, times to live. Each raises InvalidRequest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import orjson

from sage.errors import InvalidRequest
from sage.middleware.retrieval.types.documents import check_vector as check_document_vector
from sage.middleware.settings.retrieval import RetrievalLimits

MAX_CONTENT = 1_000_000
"""Bytes of one memory."""
MAX_METADATA = 16 * 1024
"""Bytes of its metadata as JSON."""
MAX_NAME = 512
"""Characters of a session's, user's, agent's or type's name."""
_AHEAD = 60.0
"""Seconds that a caller's clock may be ahead."""
_LIMITS = RetrievalLimits()


def check_name(value: Any, param: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_NAME or not is_text(value):
        raise InvalidRequest(f"'{param}' must be a text of 1 to {MAX_NAME} characters", param=param)
    return value


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: it holds no lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_content(content: Any) -> str:
    if not isinstance(content, str) or not content.strip() or not is_text(content):
        raise InvalidRequest("'content' must be a text that is not empty", param="content")
    if len(content) * 4 > MAX_CONTENT and (size := len(content.encode())) > MAX_CONTENT:
        raise InvalidRequest(f"'content' has {size:,} bytes; at most {MAX_CONTENT:,} are allowed", param="content")
    return content


def check_ttl(ttl: Any) -> float | None:
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not math.isfinite(ttl) or ttl <= 0:
        raise InvalidRequest("'ttl' must be a number of seconds above 0", param="ttl")
    return float(ttl)


def check_created_at(created_at: Any, now: float) -> float | None:
    """Never later than ``now``: a caller's clock may be a little ahead."""
    if created_at is None:
        return None
    if isinstance(created_at, bool) or not isinstance(created_at, int | float) or not 0 <= created_at <= now + _AHEAD:
        raise InvalidRequest(
            "'created_at' must be a time in Unix seconds (not milliseconds), not later than now", param="created_at"
        )
    return min(float(created_at), now)


def check_metadata(metadata: Any) -> dict[str, Any]:
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidRequest("'metadata' must be an object", param="metadata")
    try:
        size = len(orjson.dumps(dict(metadata)))
    except (TypeError, ValueError) as exc:
        raise InvalidRequest(f"'metadata' must be JSON: {exc}", param="metadata") from None
    if size > MAX_METADATA:
        raise InvalidRequest(f"'metadata' has {size:,} bytes; at most {MAX_METADATA:,} are allowed", param="metadata")
    return dict(metadata)


def check_vector(vector: Any) -> list[float] | None:
    """``vector`` as numbers. The collection checks its dimension."""
    checked = check_document_vector(vector, "memory", _LIMITS, "vector")
    numbers: list[float] | None = None if checked is None else checked.tolist()
    return numbers
