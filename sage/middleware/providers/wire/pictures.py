"""Pictures in base64, as some wires want them: bare, without the head of a ``data:`` URL.

A server that is given a bare text may take an address or a path where it finds one.
"""

from __future__ import annotations

import re

_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]*+=*+\s*+")  # possessive: spaces alone would take quadratic time
_LOOKED_AT = 4096
"""Characters: longer than any path."""
_JPEG, _JPEG_XL = "/9j/", "/wo"
"""The only pictures whose base64 begins with a slash."""


def is_base64(text: str) -> bool:
    """Whether the front of ``text``, which is longer than any path, can be base64."""
    return _BASE64.fullmatch(text[:_LOOKED_AT]) is not None


def is_base64_picture(data: str) -> bool:
    """Whether ``data`` can be a picture in base64, and is neither a URL nor a path."""
    front = data[:_LOOKED_AT]
    return is_base64(data) and (not front.lstrip().startswith("/") or front.startswith((_JPEG, _JPEG_XL)))
