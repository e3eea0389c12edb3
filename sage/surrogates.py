"""Halves of surrogate pairs in texts: JSON and Python's strings can hold them; no encoding can, no vendor takes them.

Agents cut texts in the middle of a character and keep the halves in their history: refused, such a session would be
refused for ever. So each half becomes U+FFFD, and answers say so in a header.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(
    rb"\\(?:(?P<pair>u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.S,
)
"""Any escape of JSON: a backslash that is escaped itself begins none."""
_RAW = re.compile(rb"(?P<pair>\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf])|\xed[\xa0-\xbf][\x80-\xbf]")
"""A surrogate as if it were a character in UTF-8, as CESU-8 has it."""


def mend_text(text: str) -> str:
    """``text`` with every pair of surrogates joined and every half that is alone as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def replace_halves(text: bytes) -> tuple[bytes, int]:
    """The JSON ``text`` with U+FFFD in place of each half that is alone, and how many there were."""
    count = 0

    def escaped(match: re.Match[bytes]) -> bytes:
        nonlocal count
        if match["half"] is None:
            return match[0]
        count += 1
        return rb"\ufffd"

    def raw(match: re.Match[bytes]) -> bytes:
        nonlocal count
        if match["pair"] is not None:
            units = match[0].decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
            return units.decode("utf-16-le").encode()
        count += 1
        return b"\xef\xbf\xbd"

    if b"\xed" in text:
        text = _RAW.sub(raw, text)
    if b"\\ud" in text.lower():
        text = _ESCAPE.sub(escaped, text)
    return text, count
