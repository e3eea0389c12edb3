"""What a query says beyond its words: ``"an exact phrase"``, ``+must``, ``-not``. Nothing in it is ever an error."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sage.middleware.retrieval.text.analyzer import Analyzer

_QUOTES = {'"': '"', "“": "”", "„": "”“", "「": "」", "『": "』", "＂": "＂"}
MOST = 50
"""Phrases and signed words of one query: each may have to be looked for in every document."""
_SIGN = re.compile(r"[+\-＋－]")


@dataclass(frozen=True, slots=True)
class Clause:
    """A word or phrase that must, or must not, stand in a document.

    A document meets it that holds all of ``terms``, in a row where ``sequence`` says so; or the one term ``whole``.
    """

    text: str
    terms: tuple[str, ...]
    sequence: tuple[str, ...] = ()
    """Words (:meth:`Analyzer.atoms`) which must follow each other; empty: ``terms`` say all."""
    whole: str | None = None


@dataclass(frozen=True, slots=True)
class KeywordQuery:
    """``terms`` are scored, a repeated one as often as it stands there; ``required`` and ``excluded`` decide which
    documents may be found at all, by either leg. ``text`` is what is asked in plain words, without signs and what is
    excluded: what an embedder is given."""

    terms: tuple[str, ...]
    required: tuple[Clause, ...] = ()
    excluded: tuple[Clause, ...] = ()
    text: str = ""

    @property
    def constrains(self) -> bool:
        return bool(self.required or self.excluded)


@dataclass(frozen=True, slots=True)
class _Bit:
    text: str
    sign: str = ""
    phrase: bool = False


def parse_query(text: str, analyzer: Analyzer) -> KeywordQuery:
    """Quotes that do not close, signs before nothing and the like are plain text."""
    bits = _bits(text)
    positive = [bit for bit in bits if bit.sign != "-"]
    plain = " ".join(bit.text for bit in positive)
    terms = [
        term
        for bit in positive
        for term in (analyzer.query_terms if bit.sign or bit.phrase else analyzer.content_terms)(bit.text)
    ]
    required = [_clause(bit, analyzer) for bit in positive if bit.sign == "+" or bit.phrase]
    excluded = [_clause(bit, analyzer) for bit in bits if bit.sign == "-"]
    return KeywordQuery(
        tuple(terms or analyzer.query_terms(plain)),
        tuple(clause for clause in required if clause is not None),
        tuple(clause for clause in excluded if clause is not None),
        plain,
    )


def _bits(text: str) -> list[_Bit]:
    """Signed words, phrases, and the plain text between them; behind the first :data:`MOST`, all is plain text."""
    found: list[_Bit] = []
    place = plain = special = 0
    while place < len(text) and special < MOST:
        bit, end = _special(text, place)
        if bit is None:
            place = end
            continue
        if before := text[plain:place].strip():
            found.append(_Bit(before))
        found.append(bit)
        special += 1
        place = plain = end
    if rest := text[plain:].strip():
        found.append(_Bit(rest))
    return found


def _special(text: str, place: int) -> tuple[_Bit | None, int]:
    """The phrase or signed word that begins at ``place`` and where it ends; or none, and where to look next."""
    sign, start = "", place
    if _SIGN.match(text[place]) and (place == 0 or text[place - 1].isspace()):
        sign, start = ("+" if text[place] in "+＋" else "-"), place + 1
    if start < len(text) and text[start] in _QUOTES and _opens(text, start):
        end = _closing(text, start)
        if end > 0 and text[start + 1 : end].strip():
            return _Bit(text[start + 1 : end].strip(), sign, phrase=True), end + 1
    if sign and start < len(text) and text[start].isalnum():
        end = start
        while end < len(text) and not text[end].isspace() and text[end] not in _QUOTES:
            end += 1
        return _Bit(text[start:end], sign), end
    return None, place + 1


def _opens(text: str, place: int) -> bool:
    """A straight quote after a letter or a digit is a sign of inches or the end of something, not a beginning."""
    return text[place] not in '"＂' or place == 0 or not text[place - 1].isalnum() or ord(text[place - 1]) >= 0x2E80


def _closing(text: str, start: int) -> int:
    ends = (text.find(quote, start + 1) for quote in _QUOTES[text[start]])
    return min((end for end in ends if end > 0), default=-1)


def _clause(bit: _Bit, analyzer: Analyzer) -> Clause | None:
    """``None``: there is no word in it."""
    atoms = tuple(analyzer.atoms(bit.text))
    if not atoms:
        return None
    every = analyzer.tokens(bit.text)
    pairs = {piece.term for piece in every if not piece.atom and len(piece.term) == 2 == piece.end - piece.start}
    singles = [piece for piece in every if piece.atom]
    if bit.phrase or pairs:
        terms = tuple(dict.fromkeys([*sorted(pairs), *(piece.term for piece in singles)]))
        return Clause(bit.text, terms, atoms if len(atoms) > 1 and "".join(atoms) not in pairs else ())
    low, high = min(piece.start for piece in singles), max(piece.end for piece in singles)
    wholes = [piece.term for piece in every if not piece.atom and piece.start <= low and piece.end >= high]
    return Clause(bit.text, tuple(dict.fromkeys(atoms)), (), wholes[-1] if wholes else None)
