"""Where a key-value service stores its entries: the protocol of the backends, and how values become bytes."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from typing import Any, Final, Protocol

from sage.errors import Conflict, InvalidRequest

MAX_KEY = 1024
"""The most characters of a key."""
MAX_VALUE = 2**28
"""The most bytes of a stored value; SQLite and Redis take little more than that."""
_LAST = chr(sys.maxunicode)
MISSING: Final = object()
"""Stands for the value of a key that has no entry."""


class KeyValueBackend(Protocol):
    """The entries of tenants. Safe to call from several threads. ``ttl`` is in seconds; ``None`` means without end.

    An expired entry counts as one that does not exist.
    """

    def get(self, tenant: str, key: str) -> Any: ...

    def put(self, tenant: str, key: str, value: Any, ttl: float | None) -> None: ...

    def put_many(self, tenant: str, entries: Mapping[str, Any], ttl: float | None) -> None:
        """All of them, or none."""

    def delete(self, tenant: str, key: str) -> bool: ...

    def keys(self, tenant: str, prefix: str, after: str | None, limit: int | None) -> list[str]: ...

    def clear(self, tenant: str, prefix: str) -> int: ...

    def size(self, tenant: str) -> int: ...

    def exists(self, tenant: str, key: str) -> bool: ...

    def incr(self, tenant: str, key: str, amount: int, ttl: float | None) -> int:
        """A new entry starts at 0 and gets ``ttl``; an existing one keeps its own time."""

    def compare_and_set(self, tenant: str, key: str, expected: Any, value: Any, ttl: float | None) -> bool:
        """``expected`` may be :data:`MISSING`."""

    def health(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


def encode(value: Any) -> bytes:
    """The bytes to store: a letter for the kind, then JSON, or bytes as they are. Equal values give equal bytes.

    Raises :class:`InvalidRequest` for a value that is neither.
    """
    if isinstance(value, bytes):
        _check_length(len(value))
        return b"b" + value
    try:
        _check_json(value)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        stored = b"j" + text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("the value has a lone surrogate, which is not text", param="value") from None
    except RecursionError:
        raise InvalidRequest("the value is nested too deep, or holds itself", param="value") from None
    except ValueError as exc:  # a whole number of thousands of digits
        raise InvalidRequest(f"the value cannot be written as JSON: {exc}", param="value") from None
    _check_length(len(stored))
    return stored


def _check_length(length: int) -> None:
    if length > MAX_VALUE:
        raise InvalidRequest(f"the value has {length:,} bytes; at most {MAX_VALUE:,} are stored", param="value")


def decode(stored: bytes) -> Any:
    """The value of stored bytes. Raises :class:`Conflict` for bytes that :func:`encode` did not write."""
    kind, content = stored[:1], stored[1:]
    if kind == b"b":
        return content
    try:
        if kind == b"j":
            return json.loads(content)
    except (ValueError, RecursionError):
        pass
    raise Conflict("a value was not written by this service; delete its key or put it again", code="kv_foreign_value")


def _check_json(value: Any) -> None:
    if value is None or isinstance(value, str | bool | int):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest(f"the value holds {value}, which JSON cannot express", param="value")
    elif isinstance(value, list | tuple):
        for item in value:
            _check_json(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise InvalidRequest(f"the value has the key {name!r}; keys of JSON objects are strings", param="value")
            _check_json(item)
    else:
        raise InvalidRequest(
            f"the value holds a {type(value).__name__}, which is neither JSON nor bytes; "
            "backend_type='memory' keeps any object",
            param="value",
        )


def add(key: str, value: Any, amount: int) -> int:
    """``value`` plus ``amount``. Raises :class:`Conflict` when ``value`` is not a whole number."""
    if value is MISSING:
        return amount
    if isinstance(value, bool) or not isinstance(value, int):
        raise Conflict(f"the value of '{key}' is not a whole number, so nothing can be added to it", param="key")
    return value + amount


def end_of_prefix(prefix: str) -> str:
    """The end of the range of keys that begin with ``prefix``: the smallest text that is greater than all of them.

    Texts are ordered by code points, as in SQLite and Python.
    """
    stem = prefix.rstrip(_LAST)
    if not stem:
        return _LAST * (MAX_KEY + 1)
    last = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if last == 0xD800 else last)  # skips the surrogates, which are not text


def page(keys: list[str], after: str | None, limit: int | None) -> list[str]:
    """The first ``limit`` of the unordered ``keys`` that follow ``after``, in order."""
    ordered = sorted(keys if after is None else (key for key in keys if key > after))
    return ordered if limit is None else ordered[:limit]
