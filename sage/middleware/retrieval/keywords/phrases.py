"""What a query requires and excludes, as masks: words by their postings, phrases by the texts of what is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sage.errors import InvalidRequest
from sage.middleware.retrieval.keywords.postings import Mask, Postings
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.query_syntax import Clause, KeywordQuery

Texts = Callable[[Sequence[int]], Sequence[str | None]]
_BATCH = 256
"""Texts that are read at a time."""
MOST_READ = 100_000
"""Texts that one query's phrases may have read: a second or two."""


def clause_masks(
    segments: Sequence[tuple[Postings, Mask | None]],
    starts: Sequence[int],
    query: KeywordQuery,
    analyzer: Analyzer,
    texts: Texts,
    allowed: Sequence[Mask | None],
    most: int = MOST_READ,
) -> list[Mask]:
    """Of each segment the live documents that are ``allowed``, meet every required clause and no excluded one.

    Raises :class:`InvalidRequest` when phrases would have more than ``most`` texts read.
    """
    found: list[Mask] = []
    words_first = sorted(
        [(bool(clause.sequence), clause, True) for clause in query.required]
        + [(bool(clause.sequence), clause, False) for clause in query.excluded],
        key=lambda each: each[0],
    )
    for (postings, live), start, among in zip(segments, starts, allowed, strict=False):
        mask = np.ones(postings.size, np.bool_) if live is None else live.copy()
        if among is not None:
            mask &= among
        for _, clause, wanted in words_first:
            met = _met(postings, clause, mask)
            if clause.sequence:
                most -= int(np.count_nonzero(met))
                if most < 0:
                    raise _too_common(clause)
                met = _in_a_row(met, clause, start, analyzer, texts)
            mask &= met if wanted else ~met
        found.append(mask)
    return found


def _too_common(clause: Clause) -> InvalidRequest:
    return InvalidRequest(
        f"the words of the phrase '{clause.text}' stand together in too many documents to look for the phrase in each; "
        "add a rarer +word, or a filter",
        param="query",
        code="phrase_too_common",
    )


def _met(postings: Postings, clause: Clause, among: Mask) -> Mask:
    """Which of ``among`` hold all terms of the clause, or its whole."""
    met = np.zeros(postings.size, np.bool_)
    held = [postings.postings(term)[0] for term in clause.terms]
    held.sort(key=len)
    if held and len(held[0]):
        left = held[0]
        for other in held[1:]:
            left = left[np.isin(left, other, assume_unique=True)] if len(left) else left
        met[left] = True
    if clause.whole is not None:
        met[postings.postings(clause.whole)[0]] = True
    return met & among


def _in_a_row(met: Mask, clause: Clause, start: int, analyzer: Analyzer, texts: Texts) -> Mask:
    candidates = np.flatnonzero(met)
    kept = np.zeros(len(met), np.bool_)
    for begin in range(0, len(candidates), _BATCH):
        some = candidates[begin : begin + _BATCH]
        for ordinal, text in zip(some.tolist(), texts((some + start).tolist()), strict=True):
            kept[ordinal] = text is not None and follows(analyzer.atoms(text), clause.sequence)
    return kept


def follows(words: Sequence[str], sequence: Sequence[str]) -> bool:
    """Whether ``sequence`` stands in ``words`` in a row."""
    size, first = len(sequence), sequence[0]
    place = 0
    wanted = list(sequence)
    try:
        while True:
            place = words.index(first, place)
            if list(words[place : place + size]) == wanted:
                return True
            place += 1
    except ValueError:
        return False
