"""The syntax of queries: ``"an exact phrase"``, ``+must``, ``-not``. No query is ever an error."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from sage.middleware.retrieval.text import scripts
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.tokens import Token
from sage.surrogates import mend_text

_QUOTES = {'"': '"', "“": "”", "„": "”“", "「": "」", "『": "』", "＂": "＂"}
MOST_SPECIAL = 50
"""Phrases and signed words of one query: each may have to be searched for in every document."""
_SIGN = re.compile(r"[+\-＋－]")


@dataclass(frozen=True, slots=True)
class Clause:
    """A word or phrase that a document must, or must not, hold.

    A document meets it when it holds all of ``terms``, and the words of ``sequence`` in a row; or the one term
    ``whole``, which stands for all of them (``nodejs`` for ``node.js``).
    """

    text: str
    terms: tuple[str, ...]
    sequence: tuple[str, ...] = ()
    """Words (:meth:`Analyzer.atoms`) that must follow each other; empty when ``terms`` are enough."""
    whole: str | None = None


@dataclass(frozen=True, slots=True)
class KeywordQuery:
    """``terms`` are scored, a repeated one each time; ``required`` and ``excluded`` decide which documents either leg
    may return at all. ``text`` is the query for an embedder: without signs, and without what is excluded."""

    terms: tuple[str, ...]
    required: tuple[Clause, ...] = ()
    excluded: tuple[Clause, ...] = ()
    text: str = ""

    @property
    def constrains(self) -> bool:
        return bool(self.required or self.excluded)


@dataclass(frozen=True, slots=True)
class _QueryPart:
    text: str
    sign: str = ""
    phrase: bool = False


def parse_query(text: str, analyzer: Analyzer) -> KeywordQuery:
    """Unclosed quotes, signs before nothing and the like are plain text."""
    parts = _query_parts(text if text.isascii() else unicodedata.normalize("NFC", mend_text(text)))
    positive = [part for part in parts if part.sign != "-"]
    plain = " ".join(part.text for part in positive)
    terms = [
        term
        for part in positive
        for term in (analyzer.query_terms if part.sign or part.phrase else analyzer.content_terms)(part.text)
    ]
    required = [_clause(part, analyzer) for part in positive if part.sign == "+" or part.phrase]
    excluded = [_clause(part, analyzer) for part in parts if part.sign == "-"]
    return KeywordQuery(
        tuple(terms or analyzer.query_terms(plain)),
        tuple(clause for clause in required if clause is not None),
        tuple(clause for clause in excluded if clause is not None),
        plain,
    )


def _query_parts(text: str) -> list[_QueryPart]:
    """Signed words, phrases, and the plain text between them. After :data:`MOST_SPECIAL` all is plain text."""
    result: list[_QueryPart] = []
    position = plain = special = 0
    while position < len(text) and special < MOST_SPECIAL:
        part, end = _special(text, position)
        if part is None:
            position = end
            continue
        if before := text[plain:position].strip():
            result.append(_QueryPart(before))
        result.append(part)
        special += 1
        position = plain = end
    if rest := text[plain:].strip():
        result.append(_QueryPart(rest))
    return result


def _special(text: str, position: int) -> tuple[_QueryPart | None, int]:
    """The phrase or signed word that begins at ``position``, and its end; or ``None``, and where to look next."""
    sign, start = "", position
    if _SIGN.match(text[position]) and (position == 0 or text[position - 1].isspace()):
        sign, start = ("+" if text[position] in "+＋" else "-"), position + 1
    if start < len(text) and text[start] in _QUOTES and _opens(text, start):
        end = _closing(text, start)
        if end > 0 and text[start + 1 : end].strip():
            return _QueryPart(text[start + 1 : end].strip(), sign, phrase=True), end + 1
    if sign and start < len(text) and _begins_word(text, start):
        end = start
        while end < len(text) and not text[end].isspace() and text[end] not in _QUOTES:
            end += 1
        return _QueryPart(text[start:end], sign), end
    return None, position + 1


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


def _clause(part: _QueryPart, analyzer: Analyzer) -> Clause | None:
    """``None`` means that there is no word in it."""
    atoms = tuple(analyzer.atoms(part.text))
    if not atoms:
        return None
    tokens = analyzer.tokens(part.text)
    pairs = {token.term for token in tokens if token.is_pair}
    singles = [token for token in tokens if token.atom]
    whole = _whole(tokens, singles)
    if part.phrase or pairs or not singles:
        terms = tuple(dict.fromkeys([*sorted(pairs), *(token.term for token in singles)]))
        return Clause(part.text, terms, atoms if len(atoms) > 1 and "".join(atoms) not in pairs else (), whole)
    return Clause(part.text, tuple(dict.fromkeys(atoms)), (), whole)


def _whole(tokens: Sequence[Token], singles: Sequence[Token]) -> str | None:
    """The term that stands for all words of a clause."""
    if len(singles) < 2:
        return None
    low, high = min(token.start for token in singles), max(token.end for token in singles)
    wholes = [token for token in tokens if not token.atom and token.start <= low and token.end >= high]
    return wholes[-1].term if wholes and not wholes[-1].is_pair else None
