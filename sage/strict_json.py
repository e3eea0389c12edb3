"""JSON that is read as it was written, or refused.

orjson makes a fraction of a whole number that takes more than 64 bits, and reads deeper nesting than it can write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import orjson

MAX_NESTING = 200
"""Objects and lists within each other. orjson writes 254, and what stores or passes on a value puts some around it."""
_BRACKETS = b"[]{}"
_MANY = 100_000  # brackets, which take 3 ms to count
_SHORT = 1024  # bytes, which cost less to look at than the values in them
_BYTES_A_VALUE = 16  # which cost as much to look at as a value
_OTHERS = bytes(byte for byte in range(256) if byte not in _BRACKETS)
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\xff\x01\xff")  # as signed bytes 1 and -1
_DIGITS = bytes(ord("d") if byte in b"0123456789" else ord("-") if byte in b"-" else ord(".") for byte in range(256))
_TWENTY, _MINUS_NINETEEN = b"d" * 20, b"-" + b"d" * 19
"""Whole numbers of more than 64 bits have one of these."""
_WHOLE = 2.0**63
"""orjson makes fractions of whole numbers beyond 64 bits. None of them is nearer to 0."""
_RUN = re.compile(b"d" * 19 + b"d*")  # as literals, for which it searches fast
_BEFORE_NUMBER = b":,[ \t\r\n"
_FRACTION = (b".", b"e", b"E")


class NestedTooDeeply(ValueError):
    """``field`` is the first field of an object that is nested too deeply; ``None`` means that it is no object."""

    def __init__(self, value: Any) -> None:
        super().__init__(f"nested more than {MAX_NESTING} levels deep")
        fields = value.items() if isinstance(value, dict) else ()
        self.field: str | None = next((name for name, part in fields if _is_deeper(part, MAX_NESTING - 1)), None)


def loads(text: bytes) -> Any:
    """The value of ``text``. Raises :class:`ValueError` that says what is wrong with it, such as
    :class:`orjson.JSONDecodeError` for what is not JSON."""
    value = orjson.loads(text)
    if len(text) > _SHORT and _is_plain(value, len(text) // _BYTES_A_VALUE):
        return value
    if len(text) > 2 * MAX_NESTING and _may_be_deep(text) and _is_deeper(value, MAX_NESTING):
        raise NestedTooDeeply(value)
    digits = text.translate(_DIGITS)
    # Not `in`, which asks for a number first and makes an error of that: 1 µs.
    if digits.find(_TWENTY) < 0 and digits.find(_MINUS_NINETEEN) < 0:
        return value
    if (number := _too_large_number(text, digits)) is not None:
        raise ValueError(f"the number {number[:40].decode()} takes more than 64 bits")
    return value


def _is_plain(value: Any, most: int) -> bool:
    """Whether ``value`` is made of at most ``most`` values, is not nested too deeply, and has no number that may have
    been a whole one of more than 64 bits. A long text is one value: its bytes need not be looked at, which would cost
    more than to parse it."""
    level: list[Any] = [(value,)]
    for _ in range(MAX_NESTING + 1):
        inner = []
        for container in level:
            most -= len(container)
            if most < 0:
                return False
            for part in container.values() if type(container) is dict else container:
                kind = type(part)
                if kind is dict or kind is list:
                    inner.append(part)
                elif kind is float and not -_WHOLE < part < _WHOLE:
                    return False
        if not inner:
            return True
        level = inner
    return False


def _may_be_deep(text: bytes) -> bool:
    return text.count(b"[") + text.count(b"{") > MAX_NESTING and _brackets_open(text) > MAX_NESTING


def _brackets_open(text: bytes) -> int:
    """The most brackets that are open at once, those in strings included."""
    steps = memoryview(text.translate(_STEPS, _OTHERS)).cast("b")
    if len(steps) > _MANY:
        return MAX_NESTING + 1  # perhaps; they are counted in the value, where those of strings are not
    return max(accumulate(steps))


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


def _too_large_number(text: bytes, digits: bytes) -> bytes | None:
    """The first whole number of ``text`` that takes more than 64 bits. ``digits`` is ``text`` by :data:`_DIGITS`."""
    done, in_string = 0, False
    for run in _RUN.finditer(digits):
        number = _whole_number(text, *run.span())
        if number is None or (len(number) <= 21 and -(2**63) <= int(number) < 2**64):
            continue
        between = text[done : run.start()].replace(b"\\\\", b"").replace(b'\\"', b"")
        in_string ^= bool(between.count(b'"') % 2)
        done = run.start()
        if not in_string:
            return number
    return None


def _whole_number(text: bytes, start: int, end: int) -> bytes | None:
    """The digits from ``start`` to ``end`` with their sign, if they may be a whole number, or stand in a string."""
    if text[end : end + 1] in _FRACTION:
        return None
    if text[start - 1 : start] == b"-":
        start -= 1
    return text[start:end] if start <= 0 or text[start - 1] in _BEFORE_NUMBER else None
