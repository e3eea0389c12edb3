"""JSON that is read as it was written, or refused.

orjson makes a fraction of a whole number that takes more than 64 bits, and reads deeper nesting than it can write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import orjson

MAX_NESTING = 200
"""Objects and lists within each other. orjson writes 254, and what stores or passes on a value puts some around it."""
_BRACKETS = b"[]{}"
_MANY = 100_000  # brackets, which take 3 ms to count
_OTHERS = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\xff\x01\xff")  # as signed bytes 1 and -1
_DIGITS = bytes(ord("d") if chr(byte).isdigit() and byte < 128 else ord(".") for byte in range(256))
_LONG = b"d" * 19
_LONG_NUMBER = re.compile(rb"(?<![^-:,\[\s])-?\d{19,}(?![\d.eE])")


class NestedTooDeeply(ValueError):
    """``field`` is the first field of an object that is nested too deeply; ``None`` means that it is no object."""

    def __init__(self, value: Any) -> None:
        super().__init__(f"it is nested more than {MAX_NESTING} levels deep")
        fields = value.items() if isinstance(value, dict) else ()
        self.field: str | None = next((name for name, part in fields if _is_deeper(part, MAX_NESTING - 1)), None)


def loads(text: bytes) -> Any:
    """The value of ``text``. Raises :class:`ValueError` that says what is wrong with it, such as
    :class:`orjson.JSONDecodeError` for what is not JSON."""
    value = orjson.loads(text)
    if len(text) > 2 * MAX_NESTING and _brackets_open(text) > MAX_NESTING and _is_deeper(value, MAX_NESTING):
        raise NestedTooDeeply(value)
    if _LONG in text.translate(_DIGITS) and any(map(_is_too_large, _LONG_NUMBER.findall(text))):
        json.loads(text, parse_int=_of_64_bits)  # tells a number from the digits of a string
    return value


def _brackets_open(text: bytes) -> int:
    """The most brackets that are open at once, those in strings included."""
    steps = memoryview(text.translate(_STEPS, _OTHERS)).cast("b")
    if len(steps) > _MANY:
        return MAX_NESTING + 1  # perhaps; they are counted in the value, where those of strings are not
    return max(accumulate(steps)) if len(steps) > 2 * MAX_NESTING else 0


def _is_deeper(value: Any, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        level = [part for container in level for part in _parts(container) if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def _parts(container: Any) -> Iterable[Any]:
    if isinstance(container, dict):
        return container.values()
    return container if isinstance(container, list) else ()


def _is_too_large(digits: bytes) -> bool:
    return len(digits) > 21 or not -(2**63) <= int(digits) < 2**64


def _of_64_bits(digits: str) -> int:
    if _is_too_large(digits.encode()):
        raise ValueError(f"the number {digits[:40]} takes more than 64 bits")
    return int(digits)
