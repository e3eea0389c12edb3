"""Words as they stand in a text, and the terms each is found by: parts and wholes of codes, addresses and numbers."""

from __future__ import annotations

import re
from typing import NamedTuple

from sage.middleware.retrieval.text.scripts import fold

LONGEST = 100
"""Characters of a term; what is longer is cut, in documents and queries alike."""
_LONGEST_WHOLE = 40
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_VERSION = re.compile(r"v?\d+(?:\.\d+)+")
_ACRONYM = re.compile(r"[^\W\d_](?:\.[^\W\d_])+")
_PIECE = re.compile(r"[^-_/'@:]+")
_TONE = re.compile("[\ufe0f\U0001f3fb-\U0001f3ff]")
_LETTERS = re.compile(r"[^.,]+")
_ELISION = frozenset({"l", "d", "j", "m", "t", "s", "c", "n", "qu"})
_CONTRACTION = frozenset({"re", "ve", "ll", "d", "m"})

_STOP_WORDS = """
a about above after again against all am an and any are as at be because been before being below between both but by
can could did do does doing down during each few for from further had has have having he her here hers herself him
himself his how i if in into is it its itself just me more most my myself no nor not now of off on once only or
other our ours ourselves out over own same she should so some such than that the their theirs them themselves then
there these they this those through to too under until up very was we were what when where which while who whom why
will with would you your yours yourself yourselves can't don't won't isn't aren't wasn't weren't doesn't didn't
hasn't haven't hadn't couldn't wouldn't shouldn't it's that's there's what's who's he's she's let's i'm i've i'll
i'd you're you've you'll we're we've they're
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


class Token(NamedTuple):
    """A term, where it stands, and whether it is one of the words in a row (``atom``) or made of several."""

    term: str
    start: int
    end: int
    atom: bool


def pieces(word: str) -> list[Token]:
    """The terms of one ``word`` (as :attr:`scripts.Patterns.word` finds them), before stemming; places are in it.

    ``rtx-4090`` gives ``rtx``, ``4090`` and ``rtx4090``; ``1,234.5`` gives ``1234.5``; ``a.b@c.org`` its parts, the
    host and itself; ``l'été`` gives ``ete``.
    """
    if word.isalpha() and (term := fold(word)):
        return [Token(term[:LONGEST], 0, len(word), True)]
    if word[-1] in "+#":
        return [Token(word, 0, len(word), True)]
    if word[0] >= "\u2600" and not word[0].isalnum():  # an emoji: its tone of skin and its style are passed over
        return [Token(_TONE.sub("", word)[:LONGEST] or word, 0, len(word), True)]
    start = word.find("://") + 3 if "://" in word else 0
    if word.startswith("www.", start):
        start += 4
    found = [piece for part in _PIECE.finditer(word, start) for piece in _dotted(part[0], part.start())]
    if "'" in word:
        found = _apostrophes(word, found)
    whole = _whole(word, start, [piece for piece in found if piece.atom])
    found.extend(Token(term, begin, end, False) for term, begin, end in whole)
    return [piece for piece in found if piece.term]


def _dotted(part: str, start: int) -> list[Token]:
    """Numbers, versions and acronyms are one; of other dotted names, the words and the name."""
    end = start + len(part)
    if "." not in part and "," not in part:
        return [Token(fold(part)[:LONGEST], start, end, True)]
    if _NUMBER.fullmatch(part):
        return [Token(part.replace(",", "")[:LONGEST], start, end, True)]
    if _VERSION.fullmatch(part):
        return [Token(part[:LONGEST], start, end, True)]
    if _ACRONYM.fullmatch(part):
        return [Token(fold(part.replace(".", ""))[:LONGEST], start, end, True)]
    words = [
        Token(fold(match[0])[:LONGEST], start + match.start(), start + match.end(), True)
        for match in _LETTERS.finditer(part)
    ]
    if len(part) <= _LONGEST_WHOLE:
        words.append(Token(fold(part), start, end, False))
    return words


def _apostrophes(word: str, found: list[Token]) -> list[Token]:
    """``dog's`` is ``dog``, ``we'll`` ``we``, ``l'eau`` ``eau``; ``don't`` is ``dont``, ``o'neill`` ``oneill``."""
    kept: list[Token] = []
    for piece in found:
        after = piece.start > 0 and word[piece.start - 1] == "'"
        before = piece.end < len(word) and word[piece.end] == "'"
        if after and kept and (piece.term == "s" or piece.term in _CONTRACTION):
            continue
        if before and piece.term in _ELISION:
            continue
        if after and kept and kept[-1].end == piece.start - 1:
            last = kept.pop()
            piece = Token((last.term + piece.term)[:LONGEST], last.start, piece.end, True)
        kept.append(piece)
    return kept


def _whole(word: str, start: int, atoms: list[Token]) -> list[tuple[str, int, int]]:
    """What a code or an address is found by as a whole. Words that a hyphen or a slash joins have none."""
    if len(atoms) < 2 or len(word) - start > 2 * LONGEST:
        return []
    name = word[start:]
    if "@" in word or start:
        return [(fold(name), start, len(word))]
    found = []
    if "/" in word:
        place = 0
        for side in word.split("/"):
            if len(side) < len(word) and (term := _code(side)):
                found.append((term, place, place + len(side)))
            place += len(side) + 1
    if term := _code(word):
        found.append((term, 0, len(word)))
    return found


def _code(name: str) -> str | None:
    """``rtx-4090`` is found as ``rtx4090``; where it is digits alone (dates, fractions), it stays as it is written."""
    if len(name) > _LONGEST_WHOLE or not any(joint in name for joint in "-_/"):
        return None
    if not any(character.isdigit() for character in name):
        return fold(name) if "_" in name.strip("_") else None
    joined = re.sub("[-_/]", "", name)
    return name if joined.replace(".", "").replace(",", "").isdigit() else fold(joined)
