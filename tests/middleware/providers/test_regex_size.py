"""How large patterns become, and that reading them takes no longer than they are long."""

from __future__ import annotations

import pytest

from sage.middleware.providers.regex_size import written_out


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("abc", 3),
        (r"\d{1,3}", 3),
        (r"(\d{1,3}\.){3}", 12),
        ("(a{10}){10}", 100),
        ("[(]{5}", 5),
        ("((a{100}){100}){100}", 1001),
        ("[a{9}", 1),
        ("a)b(", 2),
        ("", 0),
    ],
)
def test_counted_repetitions_are_written_out(pattern: str, size: int) -> None:
    assert written_out(pattern, 1000) == size


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["[", "[\\", "\\", "(", "(?<a", "{", "a{", "(?P<"])
def test_any_pattern_is_read_in_linear_time(piece: str) -> None:
    """In quadratic time this would take minutes."""
    assert written_out(piece * 200_000 + "{", 1000) > 0
