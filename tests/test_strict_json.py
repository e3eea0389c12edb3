"""JSON that is read as it was written, or refused."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.strict_json import MAX_NESTING, loads

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(_VALUES)
@pytest.mark.slow
def test_what_json_can_say_is_read_as_it_is(value: Any) -> None:
    assert loads(json.dumps(value).encode()) == value


_BIG = st.integers(-(10**22), 10**22)
_LONG_TEXT = st.lists(st.sampled_from(["1" * 20, "-" + "9" * 19, '"', "\\", ", ", ": ", "[", "é", "\n"])).map("".join)
_LONG_VALUES = st.recursive(
    _BIG | _LONG_TEXT | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(_LONG_TEXT, inner),
)


def _has_too_large_number(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_too_large_number, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and not -(2**63) <= value < 2**64


@given(_LONG_VALUES, st.booleans())
@pytest.mark.slow
def test_numbers_are_told_from_the_digits_of_strings(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    if _has_too_large_number(value):
        with pytest.raises(ValueError, match="takes more than 64 bits"):
            loads(text)
    else:
        assert loads(text) == value


@pytest.mark.parametrize(
    "digits", [str(2**64), str(-(2**63) - 1), "1" * 30, "-" + "1" * 30, "1" * 300], ids=lambda digits: digits[:21]
)
@pytest.mark.parametrize(
    "form", ["N", '{"order": N}', "[1,N]", "[\nN\n]", '{"text": "long", "a": [{"b": N }]}', "[" + "1," * 900 + "N]"]
)
def test_a_whole_number_beyond_64_bits_is_refused(digits: str, form: str) -> None:
    text = form.replace("long", "x" * 2**20).replace("N", digits)
    with pytest.raises(ValueError, match=f"the number {digits[:20]}[0-9]* takes more than 64 bits"):
        loads(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        b"18446744073709551615",
        b"[-9223372036854775808]",
        b"[1234567890123456789.5, 123456789012345678901234567890e3, 0.123456789012345678901]",
        b'{"id": "123456789012345678901234567890", "a": ", 123456789012345678901234567890, "}',
    ],
)
def test_other_long_digits_are_as_they_were(text: bytes) -> None:
    assert loads(text) == orjson.loads(text)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}"), (b'{"a":[1,', b"]}")])
def test_nesting_is_bounded(opening: bytes, closing: bytes) -> None:
    most = MAX_NESTING // (opening.count(b"[") + opening.count(b"{"))
    assert loads(opening * most + b"1" + closing * most) is not None
    for depth in (most + 1, 500):
        with pytest.raises(ValueError, match=f"nested more than {MAX_NESTING} levels"):
            loads(opening * depth + b"1234567890123456789" + closing * depth)


@pytest.mark.parametrize("beside", [b"", b'"long",', b"1," * 900])
@pytest.mark.parametrize("innermost", [b"[]", b"{}"])
def test_the_innermost_of_a_nesting_may_be_empty(beside: bytes, innermost: bytes) -> None:
    beside = beside.replace(b"long", b"x" * 2**16)
    for depth, is_good in ((MAX_NESTING, True), (MAX_NESTING + 1, False)):
        outer = depth - 2
        text = b"[" + beside + b"[" * outer + innermost + b"]" * outer + b"]"
        if is_good:
            assert loads(text) == orjson.loads(text)
        else:
            with pytest.raises(ValueError, match=f"nested more than {MAX_NESTING} levels"):
                loads(text)


def test_a_fraction_as_large_as_a_whole_number_beyond_64_bits_is_taken() -> None:
    assert loads(b'{"a": 1e30, "b": -9223372036854775808.0}') == {"a": 1e30, "b": -(2.0**63)}


def test_brackets_in_strings_are_no_nesting() -> None:
    assert loads(b'["%s"]' % (b"[" * 3000)) == ["[" * 3000]
