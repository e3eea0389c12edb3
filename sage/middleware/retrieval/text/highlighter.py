"""Passages of a result's text, with ``<em>`` around the words that match the query."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from html import escape

from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.query_syntax import Syntax, parse_query
from sage.middleware.retrieval.text.scripts import is_unspaced
from sage.middleware.retrieval.text.tokens import Token

PASSAGES = 3
WIDTH = 160
"""Characters of a passage, roughly: it ends with a sentence or a word."""
MOST_CHARACTERS = 4_000_000
"""Characters that are searched for matches in all texts of a search: some ten seconds of work."""
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？；]+[”’」』）]*|\n+")
_GAP = re.compile(r"\s|(?<=[\u3000-\u303f\uff00-\uffef])")


@dataclass(slots=True)
class _Match:
    start: int
    end: int
    terms: set[str]


@dataclass(frozen=True, slots=True)
class _Window:
    start: int
    end: int
    score: float


class Highlighter:
    """For one query, over the texts of its results in their order. Behind their first :data:`MOST_CHARACTERS` in all,
    nothing is highlighted."""

    def __init__(self, analyzer: Analyzer, query: str, syntax: Syntax) -> None:
        self._analyzer = analyzer
        self._remaining = MOST_CHARACTERS
        parsed = parse_query(query, analyzer, syntax)
        words = {*parsed.terms, *(term for clause in parsed.required for term in clause.terms)}
        paired = {character for word in words if len(word) == 2 and is_unspaced(word) for character in word}
        self._words, self._singles = words - paired, paired & words

    def passages(self, text: str) -> list[str]:
        """At most three passages in the order of ``text``; none when nothing matches. They are HTML-escaped, except for
        the ``<em>`` around matches. ``…`` stands where a passage begins or ends within a sentence."""
        text = text[: self._remaining]
        self._remaining -= len(text)
        matches = self._matches(text)
        if not matches:
            return []
        sentences = _sentences(text)
        chosen: list[_Window] = []
        windows = sorted(_windows(text, sentences, matches), key=lambda window: (-window.score, window.start))
        for window in windows:
            if len(chosen) < PASSAGES and all(window.end <= c.start or window.start >= c.end for c in chosen):
                chosen.append(window)
        edges = {start for start, _ in sentences}, {end for _, end in sentences}
        return [_marked(text, window, matches, *edges) for window in sorted(chosen, key=lambda window: window.start)]

    def _matches(self, text: str) -> list[_Match]:
        """The matches from left to right; those that overlap or touch are one. A single character that is only part of
        a pair in the query counts only when no such pair is in the text."""
        tokens = self._analyzer.tokens(text)
        tokens_found = [token for token in tokens if token.term in self._words]
        if not tokens_found:
            tokens_found = [token for token in tokens if token.term in self._singles]
        joined: list[_Match] = []
        spans = [(*span, token.term) for token in tokens_found for span in _spans(text, token)]
        for start, end, term in sorted(spans):
            last = joined[-1] if joined else None
            if last is not None and start <= last.end:
                last.end = max(last.end, end)
                last.terms.add(term)
            else:
                joined.append(_Match(start, end, {term}))
        return joined


def _spans(text: str, token: Token) -> list[tuple[int, int]]:
    """Where it stands; the name and the number of ``rtx 4090`` each by itself."""
    gap = -1 if token.atom else text.find(" ", token.start, token.end)
    return [(token.start, token.end)] if gap < 0 else [(token.start, gap), (gap + 1, token.end)]


def _sentences(text: str) -> list[tuple[int, int]]:
    """``(start, end)`` of each sentence, without the space around it."""
    sentences, start = [], 0
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    for end in [*ends, len(text)]:
        piece = text[start:end]
        if stripped := piece.strip():
            begin = start + piece.index(stripped[0])
            sentences.append((begin, begin + len(stripped)))
        start = end
    return sentences


def _windows(text: str, sentences: list[tuple[int, int]], matches: list[_Match]) -> list[_Window]:
    """For each sentence with a match: the sentence and as many following ones as fit, or parts of a long sentence."""
    starts = [match.start for match in matches]
    windows: list[_Window] = []
    for index, (start, end) in enumerate(sentences):
        low, high = bisect_left(starts, start), bisect_left(starts, end)
        if low == high:
            continue
        if end - start > WIDTH:
            windows.extend(_window(*_piece(text, start, end, match), matches, starts) for match in matches[low:high])
            continue
        following = index + 1
        while following < len(sentences) and sentences[following][1] - start <= WIDTH:
            end = sentences[following][1]
            following += 1
        windows.append(_window(start, end, matches, starts))
    return windows


def _window(start: int, end: int, matches: list[_Match], starts: list[int]) -> _Window:
    """A window and its score: different words count more than repeated ones."""
    inside = matches[bisect_left(starts, start) : bisect_left(starts, end)]
    different = set().union(*(match.terms for match in inside))
    return _Window(start, end, len(different) + 0.1 * len(inside) / (1 + len(inside)))


def _piece(text: str, start: int, end: int, match: _Match) -> tuple[int, int]:
    """About 160 characters of a long sentence, from shortly before a match; cut at spaces if there are any."""
    begin = max(start, match.start - WIDTH // 4)
    if begin > start:
        gap = _GAP.search(text, begin, match.start)
        begin = gap.end() if gap else begin
    stop = min(end, max(begin + WIDTH, match.end))
    if stop < end:
        gaps = [gap.start() for gap in _GAP.finditer(text, max(match.end, stop - WIDTH // 4), stop)]
        stop = gaps[-1] if gaps else stop
    return begin, stop


def _marked(text: str, window: _Window, matches: list[_Match], starts: set[int], ends: set[int]) -> str:
    parts = [] if window.start in starts else ["…"]
    position = window.start
    for match in matches:
        start, end = max(match.start, position), min(match.end, window.end)
        if start < end:
            parts.append(f"{escape(text[position:start])}<em>{escape(text[start:end])}</em>")
            position = end
    parts.append(escape(text[position : window.end]))
    if window.end not in ends:
        parts.append("…")
    return "".join(parts)
