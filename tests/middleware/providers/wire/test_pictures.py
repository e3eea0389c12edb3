"""Pictures in base64 are told from addresses and paths, and no text takes long to look at."""

from __future__ import annotations

import pytest

from sage.middleware.providers.wire.pictures import is_base64, is_base64_picture


@pytest.mark.parametrize(
    ("data", "is_picture"),
    [
        ("iVBORw0KGgo=", True),
        ("/9j/4AAQ\nSkZJRg==\n", True),
        ("/woAAA", True),
        ("/etc/passwd", False),
        ("//host/share", False),
        (" /etc/hosts", False),
        ("http://host/", False),
        ("a=b", False),
    ],
)
def test_an_address_is_no_picture(data: str, is_picture: bool) -> None:
    assert is_base64_picture(data) is is_picture


@pytest.mark.slow
def test_spaces_are_read_once() -> None:
    """In quadratic time this would take minutes."""
    assert [is_base64(" " * 4090 + "!") for _ in range(3000)] == [False] * 3000
