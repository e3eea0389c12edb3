"""Reads JSON as the vendors' SDKs do, where orjson is stricter than they are.

Upstreams send halves of surrogate pairs (``"\\ud83d"``), bytes that are no UTF-8, a byte order mark, ``NaN``, and
numbers beyond a double's range. orjson refuses all of these; Python's and JavaScript's readers take most of them. What
cannot be kept becomes U+FFFD in texts and ``None`` for numbers, so that everything read here can be written again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import orjson

from sage.surrogates import mend_text

Path = tuple[Any, ...]
_SHAPES = bytes(ord("0") if byte in b"0123456789" else ord("e") if byte in b"eE" else ord(".") for byte in range(256))
_LONG_NUMBERS = b"0" * 19, b"e000"
"""The shapes of what may exceed 64 bits, or a double's range: only then is each number looked at."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_REPLACEMENT = "\ufffd"
_MOST_WAITING = 16


def read(data: bytes | str) -> Any:
    """The value of ``data``. Raises ``ValueError`` if it is no JSON to any reader."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        value, has_halves = _read_slowly(data)
        return mend(value) if has_halves else value


def mend(value: Any) -> Any:
    """``value``, changed in place, with every pair of surrogates joined and every half that is alone as U+FFFD."""
    root = [value]
    for _, container, key in _texts(root):
        container[key] = mend_text(container[key])
    return root[0]


class JsonReader:
    """Reads the values of a stream one after another, and joins the characters that two of them have a half each of.

    A value whose text ends with the first half of a surrogate pair is kept until the value with the second half comes,
    or until it is clear that none does; then the half becomes U+FFFD. The order of the values stays.
    """

    def __init__(self) -> None:
        self.is_waiting = False
        """Whether there are values that were kept."""
        self._waiting: list[Any] = []
        self._open: dict[Path, tuple[Any, Any]] = {}
        """The texts that end with a first half, each as its container and the key in it, by its path in the value."""

    def read(self, data: bytes) -> list[Any]:
        """The values that are whole with ``data``, which is one value. Raises ``ValueError`` if it is no JSON."""
        try:
            value = orjson.loads(data)
            if not self.is_waiting:
                return [value]
        except orjson.JSONDecodeError:
            value, has_halves = _read_slowly(data)
            if not has_halves and not self.is_waiting:
                return [value]
        self._join(value)
        return self.flush() if not self._open or len(self._waiting) >= _MOST_WAITING else []

    def flush(self) -> list[Any]:
        """The values that were kept."""
        for container, key in self._open.values():
            container[key] = container[key][:-1] + _REPLACEMENT
        values, self._waiting, self._open, self.is_waiting = self._waiting, [], {}, False
        return values

    def _join(self, value: Any) -> None:
        root = [value]
        for path, container, key in _texts(root):
            text = container[key]
            if text and path in self._open:
                earlier, place = self._open.pop(path)
                if "\udc00" <= text[0] <= "\udfff":
                    earlier[place], text = mend_text(earlier[place] + text[0]), text[1:]
                else:
                    earlier[place] = earlier[place][:-1] + _REPLACEMENT
            if text and "\ud800" <= text[-1] <= "\udbff":
                container[key] = mend_text(text[:-1]) + text[-1]
                self._open[path] = container, key
            else:
                container[key] = mend_text(text)
        self._waiting.append(root[0])
        self.is_waiting = True


def _read_slowly(data: bytes | str) -> tuple[Any, bool]:
    """The value of what orjson refused, and whether its texts may hold halves of surrogate pairs."""
    text = (data if isinstance(data, str) else _decode(data)).removeprefix("\ufeff")
    shapes = text.encode("utf-8", "surrogatepass").translate(_SHAPES, b"+")
    has_long_numbers = any(shape in shapes for shape in _LONG_NUMBERS)
    try:
        value = json.loads(
            text,
            strict=False,
            parse_constant=_no_number,
            parse_int=_whole_number if has_long_numbers else None,
            parse_float=_finite if has_long_numbers else None,
        )
    except RecursionError as exc:
        raise ValueError("the JSON is nested too deeply") from exc
    return value, _HALF.search(text) is not None


def _decode(data: bytes) -> str:
    encoding = json.detect_encoding(data)
    try:
        return data.decode(encoding, "surrogatepass")
    except UnicodeDecodeError:
        return data.decode(encoding, "replace")


def _texts(root: Any) -> Iterator[tuple[Path, Any, Any]]:
    """The texts in a list or an object, each as its path, its container and the key in that; keys are mended.

    An object with an ``index`` is found by it, not by its place in a list: the choices and tool calls of chunks are.
    """
    containers: list[tuple[Path, Any]] = [((), root)]
    while containers:
        path, container = containers.pop()
        if isinstance(container, dict):
            for name in [name for name in container if mend_text(name) != name]:
                container[mend_text(name)] = container.pop(name)
            items = list(container.items())
        else:
            items = list(enumerate(container))
        for key, item in items:
            if isinstance(item, str):
                yield (*path, key), container, key
            elif isinstance(item, dict) and isinstance(item.get("index"), int):
                containers.append(((*path, "index", item["index"]), item))
            elif isinstance(item, dict | list):
                containers.append(((*path, key), item))


def _no_number(_: str) -> None:
    """What stands in place of ``NaN``, ``Infinity`` and ``-Infinity``."""


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _whole_number(digits: str) -> int | float | None:
    """The number, as a fraction where it takes more than 64 bits: so does orjson read it."""
    if len(digits) <= 20 and -(2**63) <= (number := int(digits)) < 2**64:
        return number
    return _finite(digits)
