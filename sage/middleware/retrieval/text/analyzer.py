"""From text to words, the same way for documents and queries."""

from __future__ import annotations

import threading
from itertools import chain, pairwise
from typing import Any

from sage.errors import MissingExtra
from sage.middleware.retrieval.text import scripts
from sage.middleware.retrieval.text.tokens import STOP_WORDS, Token, pieces
from sage.middleware.settings.retrieval import AnalysisOptions

_REMEMBERED = 2**16
_LONGEST_REMEMBERED = 32


class Analyzer:
    """Words of a text, in their order. Pure, and safe to call from several threads.

    A text is taken run by run: words of letters and digits (English stems, folded accents), and scripts without spaces
    as characters and pairs of them. Stop words are indexed like any word, so that a phrase or a query of nothing else
    finds them; a query leaves them out where it has other words.
    """

    def __init__(self, options: AnalysisOptions) -> None:
        """Raises :class:`sage.errors.MissingExtra` where an option needs a package that is not installed."""
        self._patterns = scripts.patterns()
        self._stop_words = STOP_WORDS if options.stop_words else frozenset[str]()
        self._words = _TermCache(options.stem)
        self._jieba = _jieba() if options.chinese == "rjieba" else None
        self._simplify = _simplifier() if options.script == "simplified" else None

    def terms(self, text: str) -> list[str]:
        """The terms of ``text`` in their order, repeats included."""
        if text.isascii():
            return list(chain.from_iterable(map(self._words.__getitem__, self._patterns.ascii.findall(text.lower()))))
        text = self._normalize(text)
        if not self._patterns.run.search(text):
            return list(chain.from_iterable(map(self._words.__getitem__, self._patterns.word.findall(text))))
        found: list[str] = []
        for match in self._patterns.mixed.finditer(text):
            if match[1]:
                found.extend(self._run_terms(match[1]))
            else:
                words = self._patterns.word.findall(match[0])
                found.extend(chain.from_iterable(map(self._words.__getitem__, words)))
        return found

    def query_terms(self, text: str) -> list[str]:
        """The terms that a query looks for: those of :meth:`terms` without stop words, unless there are only those."""
        return self.content_terms(text) or self.terms(text)

    def content_terms(self, text: str) -> list[str]:
        """The terms without stop words."""
        kept: list[str] = []
        for match in self._patterns.mixed.finditer(self._normalize(text)):
            if match[1]:
                kept.extend(self._run_terms(match[1]))
            else:
                for word in self._patterns.word.findall(match[0]):
                    if word not in self._stop_words:
                        kept.extend(self._words[word])
        return kept

    def atoms(self, text: str) -> list[str]:
        """The words of ``text`` one after the other, without those that overlap (pairs of characters, wholes of codes):
        what stands next to what, for phrases."""
        found: list[str] = []
        for match in self._patterns.mixed.finditer(self._normalize(text)):
            if match[1]:
                found.extend(match[1])
            else:
                for word in self._patterns.word.findall(match[0]):
                    found.extend(self._words.atoms(word))
        return found

    def tokens(self, text: str) -> list[Token]:
        """Terms with their places in ``text`` as it is given: what highlights stand on."""
        normal, places = self._placed(text)
        found: list[Token] = []
        for match in self._patterns.mixed.finditer(normal):
            if match[1]:
                found.extend(self._run_pieces(match[1], match.start()))
            else:
                for word in self._patterns.word.finditer(normal, match.start(), match.end()):
                    found.extend(
                        Token(piece.term, piece.start + word.start(), piece.end + word.start(), piece.atom)
                        for piece in self._words.pieces(word[0])
                    )
        if places is None:
            return found
        return [Token(piece.term, places[piece.start][0], places[piece.end - 1][1], piece.atom) for piece in found]

    def _normalize(self, text: str) -> str:
        text = scripts.normalize(text)
        if self._simplify is not None and not text.isascii():
            text = self._simplify(text)
        return text

    def _placed(self, text: str) -> tuple[str, list[tuple[int, int]] | None]:
        """The normal form, and from where to where in ``text`` that stands which became each of its characters;
        ``None``: the same place."""
        normal = self._normalize(text)
        if text.isascii():
            return normal, None
        parts = scripts.clusters(text)
        places = [(start, end) for start, end, part in parts for _ in part]
        if len(places) != len(normal):  # characters that change with their neighbours: take each by itself
            normal = "".join(part for _, _, part in parts)
        return normal, places

    def _run_terms(self, run: str) -> list[str]:
        if self._jieba is not None and _is_han(run):
            return list(self._jieba.cut_for_search(run))
        if len(run) == 1:
            return [run]
        found: list[str] = []
        for here, pair in zip(run, map("".join, pairwise(run)), strict=False):
            if _is_han(here):
                found.append(here)
            found.append(pair)
        if _is_han(run[-1]):
            found.append(run[-1])
        return found

    def _run_pieces(self, run: str, start: int) -> list[Token]:
        if self._jieba is not None and _is_han(run):
            return _placed_words(self._jieba.cut_for_search(run), run, start)
        singles = [Token(c, start + i, start + i + 1, True) for i, c in enumerate(run) if len(run) == 1 or _is_han(c)]
        pairs = [Token(run[i : i + 2], start + i, start + i + 2, False) for i in range(len(run) - 1)]
        return singles + pairs


class _TermCache(dict[str, tuple[str, ...]]):
    """The terms of each word seen lately. A word is looked up in nanoseconds, and made in microseconds."""

    def __init__(self, stem: bool) -> None:
        super().__init__()
        self._stemmer: Any = None
        if stem:
            import Stemmer

            self._stemmer = Stemmer.Stemmer("english", 0)
        self._alone = threading.Lock()  # a stemmer serves one thread at a time

    def __missing__(self, word: str) -> tuple[str, ...]:
        terms = tuple(piece.term for piece in self.pieces(word))
        if len(word) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[word] = terms
        return terms

    def pieces(self, word: str) -> list[Token]:
        found = pieces(word)
        if self._stemmer is None:
            return found
        with self._alone:
            stem = self._stemmer.stemWord
            return [
                Token(stem(piece.term), *piece[1:])
                if piece.atom and piece.term.isascii() and piece.term.isalpha()
                else piece
                for piece in found
            ]

    def atoms(self, word: str) -> list[str]:
        if word.isalpha():
            return list(self[word])
        return [piece.term for piece in self.pieces(word) if piece.atom]


def _is_han(run: str) -> bool:
    return all(
        "\u3400" <= character <= "\u9fff"
        or character >= "\U00020000"
        or character in "\u3005\u3007"
        or "\uf900" <= character <= "\ufaff"
        for character in run
    )


def _placed_words(words: list[str], run: str, start: int) -> list[Token]:
    """Words of a search cut overlap, and come in the order of their ends."""
    found: list[Token] = []
    end = 0
    for word in words:
        place = run.find(word, max(0, end - len(word)))
        if place < 0:
            place = run.find(word)
        end = max(end, place + len(word))
        found.append(Token(word, start + place, start + place + len(word), True))
    return found


def _jieba() -> Any:
    try:
        import rjieba
    except ImportError as exc:
        raise MissingExtra("cutting Chinese into words (analysis.chinese: rjieba)", "chinese") from exc
    return rjieba


def _simplifier() -> Any:
    try:
        import opencc
    except ImportError as exc:
        raise MissingExtra("traditional as simplified Chinese (analysis.script: simplified)", "chinese") from exc
    return opencc.OpenCC("t2s").convert
