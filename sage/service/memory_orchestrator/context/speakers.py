"""Who said a memory, and whom of them a question names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

FIELDS = ("speaker", "role")
"""Of a memory's metadata: the first that is there says who spoke. Chats store ``role``."""
_WORD = re.compile(r"\w+")


def speaker_of(metadata: Mapping[str, Any]) -> str | None:
    """``metadata`` is the caller's."""
    for field in FIELDS:
        speaker = metadata.get(field)
        if isinstance(speaker, str) and speaker.strip():
            return speaker
    return None


def named_speaker(question: str, speakers: Iterable[str]) -> str | None:
    """The one of ``speakers`` whom ``question`` names; ``None`` when it names none or several. A word of a name is
    enough (``Ann`` for ``Ann Lee``). Capitals count first, since some names are words (``Will``)."""
    distinct = sorted(set(speakers))
    for fold in (str, str.casefold):
        text = fold(question)
        words = set(_WORD.findall(text))
        named = [speaker for speaker in distinct if _is_named(fold(speaker), text, words)]
        if named:
            return named[0] if len(named) == 1 else None
    return None


def _is_named(speaker: str, text: str, words: set[str]) -> bool:
    if not speaker.isascii() and speaker in text:  # names in scripts without spaces are no words of their own
        return True
    return any(len(word) > 1 and word in words for word in _WORD.findall(speaker))
