"""Halves of surrogate pairs in texts: JSON and Python's strings can hold them, no encoding can."""

from __future__ import annotations


def mend_text(text: str) -> str:
    """``text`` with every pair of surrogates joined and every half that is alone as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
