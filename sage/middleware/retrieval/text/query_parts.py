"""The parts of a query that have signs: ``"phrases"``, and words and phrases after ``+`` or ``-``."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from sage.middleware.retrieval.text import scripts

_QUOTES = {'"': '"', "“": "”", "„": "”“", "「": "」", "『": "』", "＂": "＂"}
MOST_SPECIAL = 50
"""Phrases and signed words of one query: each may have to be searched for in every document."""
_BEGINNING = re.compile(f"[{''.join(_QUOTES)}]|(?<!\\S)[+\\-＋－]")


@dataclass(frozen=True, slots=True)
class SignedPart:
    """A phrase, a signed word or a signed phrase: ``query[start:end]``. ``text`` is without quotes and sign."""

    text: str
    start: int
    end: int
    sign: str = ""
    """``+``, ``-`` or nothing."""
    phrase: bool = False


def signed_parts(query: str) -> list[SignedPart]:
    """The parts in their order, up to :data:`MOST_SPECIAL`. Unclosed quotes, signs before nothing and the like are
    plain text."""
    parts: list[SignedPart] = []
    position = 0
    while len(parts) < MOST_SPECIAL and (beginning := _BEGINNING.search(query, position)) is not None:
        part = _part(query, beginning.start())
        if part is not None:
            parts.append(part)
        position = beginning.end() if part is None else part.end
    return parts


def _part(query: str, position: int) -> SignedPart | None:
    """The part that begins at ``position``; ``None`` means none."""
    sign, start = "", position
    if query[position] not in _QUOTES:
        sign, start = ("+" if query[position] in "+＋" else "-"), position + 1
    if start < len(query) and query[start] in _QUOTES and _opens(query, start):
        end = _closing(query, start)
        if end > 0 and (text := query[start + 1 : end].strip()):
            return SignedPart(text, position, end + 1, sign, phrase=True)
    if sign and start < len(query) and _begins_word(query, start):
        end = start
        while end < len(query) and not query[end].isspace() and query[end] not in _QUOTES:
            end += 1
        return SignedPart(query[start:end], position, end, sign)
    return None


def _begins_word(text: str, position: int) -> bool:
    """Of ``.net``, ``#tag`` and ``_name`` too, and of emoji."""
    first = text[position]
    if first.isalnum() or scripts.is_unspaced(first):
        return True
    if first in "._#@":
        return text[position + 1 : position + 2].isalpha()
    return not first.isascii() and unicodedata.category(first) == "So"


def _opens(text: str, position: int) -> bool:
    """Whether a quote may open a phrase. A straight one after a letter or digit means inches, or closes something."""
    return (
        text[position] not in '"＂'
        or position == 0
        or not text[position - 1].isalnum()
        or scripts.is_unspaced(text[position - 1])
    )


def _closing(text: str, start: int) -> int:
    ends = (text.find(quote, start + 1) for quote in _QUOTES[text[start]])
    return min((end for end in ends if end > 0), default=-1)
