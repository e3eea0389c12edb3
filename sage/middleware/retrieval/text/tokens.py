"""From a word of a text to its terms: the parts and the whole of codes, addresses and numbers."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from sage.middleware.retrieval.text.scripts import fold

LONGEST = 100
"""Characters of a term; longer ones are cut, in documents and queries alike."""
_LONGEST_WHOLE = 40
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
_VERSION = re.compile(r"v?(\d+(?:\.\d+)+)")
_ACRONYM = re.compile(r"[^\W\d_](?:\.[^\W\d_])+")
_DEGREE = re.compile(r"(?i)(?:ph|ed|psy|ll|[a-z])\.(?:[a-z]|sc|ed|eng|phil)(?:\.[a-z])*")  # Ph.D., M.Sc.
_PIECE = re.compile(r"[^-_/'@:]+")
_TONE = re.compile("[\ufe0f\U0001f3fb-\U0001f3ff]")
_DOTTED = re.compile(r"[^.,\d]*\d+(?:,\d{3})*(?:\.\d+)+[^.,]*|[^.,]+")
_RUN = re.compile(r"\d+(?:[.,]\d+)*|\D+")
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th)")
_NAME_AND_NUMBER = re.compile(r"[^\W\d_]{2,}\d+")
_SPLIT_WORD = re.compile(r"([^\W\d_]+)-([^\W\d_]+)")
_PREFIX = re.compile(
    "anti|auto|extra|hyper|inter|intra|macro|meta|micro|mini|multi|over|post|pseudo|semi|super|trans|ultra|under"
)
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
    """A term, where it stands, and whether it is a single word (``atom``) or made of several that are atoms.
    ``is_pair`` means two neighbours in a script without spaces."""

    term: str
    start: int
    end: int
    atom: bool
    is_pair: bool = False


def tokens_of(word: str) -> list[Token]:
    """The terms of one ``word`` (as :attr:`scripts.Patterns.word` finds them), before stemming, with offsets in it.

    What people write in one or in several words has the terms of both: ``rtx-4090`` and ``RTX4090`` give ``rtx``,
    ``4090`` and ``rtx4090``; ``getUserById`` its words and itself; ``node.js`` also ``nodejs``, ``e-mail`` also
    ``email``. ``1,234.5`` gives ``1234.5``, ``v1.2`` ``1.2``; ``a.b@c.org`` its parts, the host and itself; ``l'été``
    gives ``ete``.
    """
    if " " in word:
        return _before_number(*word.rsplit(" ", 1))
    if word.isalpha():
        return [token for token in _compound(word, 0) if token.term]
    if word[-1] in "+#":
        return [Token(word.lower(), 0, len(word), True)]
    if word[0] >= "\u2600" and not word[0].isalnum():  # an emoji: its skin tone and its style do not count
        return [Token(_TONE.sub("", word)[:LONGEST] or word, 0, len(word), True)]
    start = word.find("://") + 3 if "://" in word else 0
    if word[start : start + 4].lower() == "www.":
        start += 4
    tokens = [token for part in _PIECE.finditer(word, start) for token in _dotted(part[0], part.start())]
    if "'" in word:
        tokens = _apostrophes(word, tokens)
    wholes = _whole_terms(word, start, [token for token in tokens if token.atom])
    tokens.extend(Token(term, begin, end, False) for term, begin, end in wholes)
    return [token for token in tokens if token.term]


def is_name_and_number(word: str) -> bool:
    """Whether it is a code such as ``RTX4090``. In a query it stands for itself: its words alone are in other codes."""
    return _NAME_AND_NUMBER.fullmatch(word) is not None


def whole_before_number(name: str, number: str) -> tuple[str, ...]:
    """The term of both: ``rtx4090`` for ``rtx 4090``; none where it is no name, as in ``in 2024``."""
    if not name.isalpha() or name.lower() in STOP_WORDS or len(name) + len(number) > _LONGEST_WHOLE:
        return ()
    return (fold(name) + number,)


def _before_number(name: str, number: str) -> list[Token]:
    shift = len(name) + 1
    after = [Token(token.term, token.start + shift, token.end + shift, token.atom) for token in tokens_of(number)]
    whole = [Token(term, 0, shift + len(number), False) for term in whole_before_number(name, number)]
    return [*tokens_of(name), *after, *whole]


def _dotted(part: str, start: int) -> list[Token]:
    """Numbers, versions and abbreviations are one term; other dotted names are their words, and all without dots."""
    end = start + len(part)
    if "." not in part and "," not in part:
        return _compound(part, start)
    if _NUMBER.fullmatch(part):
        return [Token(part.replace(",", "")[:LONGEST], start, end, True)]
    if version := _VERSION.fullmatch(part.lower()):
        return [Token(version[1][:LONGEST], start, end, True)]
    if _ACRONYM.fullmatch(part) or _DEGREE.fullmatch(part):
        return [Token(fold(part.replace(".", ""))[:LONGEST], start, end, True)]
    words = [token for match in _DOTTED.finditer(part) for token in _compound(match[0], start + match.start())]
    if len(part) <= _LONGEST_WHOLE and len(words) > 1:
        whole = fold(_without_dots(part))
        if all(token.term != whole for token in words):
            words.append(Token(whole, start, end, False))
    return words


def _without_dots(name: str) -> str:
    """Dots between digits stay."""
    return re.sub(r"(?<!\d)[.,]|[.,](?!\d)", "", name).replace(",", "")


def _compound(word: str, start: int) -> list[Token]:
    """The words of one that is written together (``RTX4090``, ``getUserById``) and itself; mostly it is one word.

    A name and its number are words of a phrase. What only capitals part is one: elsewhere it is written small.
    """
    end = start + len(word)
    term = fold(word)[:LONGEST]
    is_one = word.isdigit() or (word.isalpha() and (word[1:].islower() or word.isupper())) or len(word) > _LONGEST_WHOLE
    if is_one:
        return [Token(term, start, end, True)]
    edges = [0, *_number_bounds(word), len(word)]
    tokens: list[Token] = []
    for low, high in pairwise(edges):
        tokens.append(Token(fold(word[low:high]).replace(",", ""), start + low, start + high, True))
        camel = [0, *_camel_bounds(word[low:high]), high - low]
        if len(camel) > 2:
            tokens.extend(
                Token(fold(word[low + first : low + last]), start + low + first, start + low + last, False)
                for first, last in pairwise(camel)
            )
    if len(edges) > 2:
        tokens.append(Token(term.replace(",", ""), start, end, False))
    return tokens


def _number_bounds(word: str) -> list[int]:
    """Where a number begins or ends within it. Single letters are no words: ``B12``, ``i18n``, ``H2O`` and ``90s`` stay
    whole, and so does ``1st``."""
    runs = [match.span() for match in _RUN.finditer(word)]
    letters = [end - begin for begin, end in runs if not word[begin].isdigit()]
    if min(letters, default=0) < 2 or _ORDINAL.fullmatch(word.lower()):
        return []
    return [begin for begin, _ in runs[1:]]


def _camel_bounds(word: str) -> list[int]:
    """Where capitals begin words within it. Single letters are no words: ``iPhone`` and ``PhD`` stay whole."""
    if word.islower():
        return []
    places = [place for place in range(1, len(word)) if _begins_word(word, place)]
    edges = [0, *places, len(word)]
    return [
        place
        for before, place, after in zip(edges, edges[1:], edges[2:], strict=False)
        if place - before > 1 and after - place > 1
    ]


def _begins_word(word: str, place: int) -> bool:
    """Whether a capital stands there after a small letter, or before small ones, as the last of several or after a
    digit."""
    if not word[place].isupper():
        return False
    following = word[place + 1 : place + 3]
    return word[place - 1].islower() or (len(following) == 2 and following.islower())


def _apostrophes(word: str, tokens: list[Token]) -> list[Token]:
    """``dog's`` is ``dog``, ``we'll`` ``we``, ``l'eau`` ``eau``; ``don't`` is ``dont``, ``o'neill`` ``oneill``."""
    result: list[Token] = []
    for token in tokens:
        after = token.start > 0 and word[token.start - 1] == "'"
        before = token.end < len(word) and word[token.end] == "'"
        if after and result and (token.term == "s" or token.term in _CONTRACTION):
            continue
        if before and token.term in _ELISION:
            continue
        if after and result and result[-1].end == token.start - 1:
            last = result.pop()
            token = Token((last.term + token.term)[:LONGEST], last.start, token.end, True)
        result.append(token)
    return result


def _whole_terms(word: str, start: int, atoms: list[Token]) -> list[tuple[str, int, int]]:
    """The terms of a whole code or address, with offsets. Of plain words joined by a hyphen, short ones and prefixes
    have one (``e-mail``, ``non-linear``); of others and of words joined by a slash there is none."""
    if len(atoms) < 2 or len(word) - start > 2 * LONGEST:
        return []
    name = word[start:]
    if "@" in word or start:
        return [(fold(name), start, len(word))]
    if split := _SPLIT_WORD.fullmatch(word):
        first, second = split[1].lower(), split[2].lower()
        is_one = len(word) <= _LONGEST_WHOLE and (
            min(len(first), len(second)) <= 3 or _PREFIX.fullmatch(first) is not None
        )
        return [(fold(first + second), 0, len(word))] if is_one else []
    terms = []
    if "/" in word:
        position = 0
        for side in word.split("/"):
            if len(side) < len(word) and (term := _code(side)):
                terms.append((term, position, position + len(side)))
            position += len(side) + 1
    if term := _code(word):
        terms.append((term, 0, len(word)))
    return terms


def _code(name: str) -> str | None:
    """``rtx-4090`` becomes ``rtx4090``; digits alone (dates, fractions) stay as they are. ``None`` means no code."""
    if len(name) > _LONGEST_WHOLE or not any(joint in name for joint in "-_/"):
        return None
    if not any(character.isdigit() for character in name):
        return fold(name) if "_" in name.strip("_") else None
    joined = re.sub("[-_/]", "", name)
    return name if joined.replace(".", "").replace(",", "").isdigit() else fold(joined)
