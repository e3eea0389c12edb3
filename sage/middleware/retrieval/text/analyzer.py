"""Analysis: from text to terms, the same for documents and queries."""

from __future__ import annotations

import threading
from itertools import chain, pairwise
from typing import Any

from sage.errors import MissingExtra
from sage.middleware.retrieval.text import scripts
from sage.middleware.retrieval.text.tokens import (
    LONGEST,
    STOP_WORDS,
    Token,
    is_name_and_number,
    tokens_of,
    whole_before_number,
)
from sage.middleware.settings.retrieval import AnalysisOptions

_CACHED_WORDS = 2**16
_LONGEST_CACHED = 32


class Analyzer:
    """The terms of a text. Pure, and safe to call from several threads.

    A text is analysed run by run. Words of letters and digits become English stems without accents; scripts without
    spaces become characters and pairs of characters. Stop words are indexed like any word, so that a phrase or a query
    of nothing else finds them; a query that has other words leaves them out.
    """

    def __init__(self, options: AnalysisOptions) -> None:
        """Raises :class:`sage.errors.MissingExtra` where an option needs a package that is not installed."""
        self._patterns = scripts.patterns()
        self._stop_words = STOP_WORDS if options.stop_words else frozenset[str]()
        self._term_cache = _TermCache(options.stem)
        self._jieba = _jieba() if options.chinese == "rjieba" else None
        self._simplify = _simplifier() if options.script == "simplified" else None

    def terms(self, text: str) -> list[str]:
        """The terms of ``text`` in their order, with repetitions."""
        if text.isascii():
            return list(chain.from_iterable(map(self._term_cache.__getitem__, self._patterns.ascii.findall(text))))
        text = self._normalize(text)
        if not self._patterns.run.search(text):
            return list(chain.from_iterable(map(self._term_cache.__getitem__, self._patterns.word.findall(text))))
        terms: list[str] = []
        for match in self._patterns.mixed.finditer(text):
            if match[1]:
                terms.extend(self._run_terms(match[1]))
            else:
                words = self._patterns.word.findall(match[0])
                terms.extend(chain.from_iterable(map(self._term_cache.__getitem__, words)))
        return terms

    def query_terms(self, text: str) -> list[str]:
        """The terms of a query: those of :meth:`terms` without stop words, unless there are only stop words."""
        return self.content_terms(text) or self.terms(text)

    def content_terms(self, text: str) -> list[str]:
        """The terms without stop words."""
        terms: list[str] = []
        for match in self._patterns.mixed.finditer(self._normalize(text)):
            if match[1]:
                terms.extend(self._run_terms(match[1]))
            else:
                for word in self._patterns.word.findall(match[0]):
                    terms.extend(self._content_terms_of(word))
        return terms

    def _content_terms_of(self, word: str) -> tuple[str, ...]:
        name, space, number = word.partition(" ")
        if name.lower() in self._stop_words:
            return self._term_cache[number] if space else ()
        terms = self._term_cache[word]
        return terms[-1:] if len(terms) == 3 and is_name_and_number(word) else terms

    def atoms(self, text: str) -> list[str]:
        """The words of ``text`` one after the other, without terms that overlap others (pairs of characters, whole
        codes). Phrases are compared with them."""
        atoms: list[str] = []
        for match in self._patterns.mixed.finditer(self._normalize(text)):
            if match[1]:
                atoms.extend(match[1])
            else:
                for word in self._patterns.word.findall(match[0]):
                    atoms.extend(self._term_cache.atoms(word))
        return atoms

    def tokens(self, text: str) -> list[Token]:
        """The terms with their offsets in ``text``, before it is normalised: highlights need them."""
        normal, offsets = self._normalized_with_offsets(text)
        tokens: list[Token] = []
        for match in self._patterns.mixed.finditer(normal):
            if match[1]:
                tokens.extend(self._run_tokens(match[1], match.start()))
            else:
                for word in self._patterns.word.finditer(normal, match.start(), match.end()):
                    tokens.extend(
                        Token(token.term, token.start + word.start(), token.end + word.start(), token.atom)
                        for token in self._term_cache.tokens_of(word[0])
                    )
        if offsets is None:
            return tokens
        return [token._replace(start=offsets[token.start][0], end=offsets[token.end - 1][1]) for token in tokens]

    def _normalize(self, text: str) -> str:
        text = scripts.normalize(text)
        if self._simplify is not None and not text.isascii():
            text = self._simplify(text)
        return text

    def _normalized_with_offsets(self, text: str) -> tuple[str, list[tuple[int, int]] | None]:
        """The normal form, and for each of its characters ``(start, end)`` of what it was in ``text``; ``None`` means
        that the offsets are the same."""
        normal = self._normalize(text)
        if text.isascii():
            return normal, None
        parts = scripts.clusters(text)
        offsets = [(start, end) for start, end, part in parts for _ in part]
        if len(offsets) != len(normal):  # some characters change with their neighbours: take each by itself
            normal = "".join(part for _, _, part in parts)
        return normal, offsets

    def _run_terms(self, run: str) -> list[str]:
        if self._jieba is not None and _is_han(run):
            return list(self._jieba.cut_for_search(run))
        if len(run) == 1:
            return [run]
        terms: list[str] = []
        for character, pair in zip(run, map("".join, pairwise(run)), strict=False):
            if _is_han(character):
                terms.append(character)
            terms.append(pair)
        if _is_han(run[-1]):
            terms.append(run[-1])
        return terms

    def _run_tokens(self, run: str, start: int) -> list[Token]:
        if self._jieba is not None and _is_han(run):
            return _dictionary_tokens(self._jieba.cut_for_search(run), run, start)
        singles = [Token(c, start + i, start + i + 1, True) for i, c in enumerate(run) if len(run) == 1 or _is_han(c)]
        pairs = [Token(run[i : i + 2], start + i, start + i + 2, False, True) for i in range(len(run) - 1)]
        return singles + pairs


class _TermCache(dict[str, tuple[str, ...]]):
    """The terms of each recent word: looking one up takes nanoseconds, analysing it microseconds."""

    def __init__(self, stem: bool) -> None:
        super().__init__()
        self._stemmer: Any = None
        if stem:
            import Stemmer

            self._stemmer = Stemmer.Stemmer("english", 0)
        self._lock = threading.Lock()  # a stemmer is not safe for several threads

    def __missing__(self, word: str) -> tuple[str, ...]:
        if " " in word:
            name, number = word.rsplit(" ", 1)
            return (*self[name], *self[number], *whole_before_number(name, number))
        if word.isascii() and word.isalpha() and word.islower():
            terms: tuple[str, ...] = (self._stemmed(word[:LONGEST]),)  # most words
        elif word[0].isupper() and word[1:].islower() and word.isascii():
            terms = self[word.lower()]  # at the beginning of a sentence
        else:
            terms = tuple(token.term for token in self.tokens_of(word))
        if len(word) <= _LONGEST_CACHED:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = terms
        return terms

    def tokens_of(self, word: str) -> list[Token]:
        tokens = tokens_of(word)
        if self._stemmer is None:
            return tokens
        with self._lock:
            stem = self._stemmer.stemWord
            return [
                Token(stem(token.term), *token[1:]) if token.term.isascii() and token.term.isalpha() else token
                for token in tokens
            ]

    def _stemmed(self, term: str) -> str:
        if self._stemmer is None:
            return term
        with self._lock:
            return str(self._stemmer.stemWord(term))

    def atoms(self, word: str) -> list[str]:
        if word.isalpha() and len(terms := self[word]) == 1:
            return list(terms)
        return [token.term for token in self.tokens_of(word) if token.atom]


def _is_han(run: str) -> bool:
    return all(
        "\u3400" <= character <= "\u9fff"
        or character >= "\U00020000"
        or character in "\u3005\u3007"
        or "\uf900" <= character <= "\ufaff"
        for character in run
    )


def _dictionary_tokens(words: list[str], run: str, start: int) -> list[Token]:
    """Words of rjieba's search mode overlap, and come in the order of their ends."""
    tokens: list[Token] = []
    end = 0
    for word in words:
        offset = run.find(word, max(0, end - len(word)))
        if offset < 0:
            offset = run.find(word)
        end = max(end, offset + len(word))
        tokens.append(Token(word, start + offset, start + offset + len(word), True))
    return tokens


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
