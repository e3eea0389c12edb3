"""Where a login to Flower may lead."""

from __future__ import annotations

import re
from urllib.parse import unquote

HOME = "/flower/"
_MAX_TARGET = 2000
_TARGET = re.compile(r"/flower(?:[/?][!-;=?-\[\]-~]*)?")
"""Printable ASCII without ``<``, ``>``, ``\\`` and spaces."""


def safe_target(text: str) -> str:
    """``text`` when it is a path of Flower's pages, else their first one: a login leads nowhere else."""
    path = unquote(text.partition("?")[0])
    if len(text) > _MAX_TARGET or _TARGET.fullmatch(text) is None or "\\" in path or "//" in path:
        return HOME
    segments = path.split("/")
    if any(segment in (".", "..") for segment in segments) or segments[2:3] in (["login"], ["logout"]):
        return HOME
    return text
