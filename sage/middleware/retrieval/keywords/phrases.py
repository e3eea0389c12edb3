"""What a query requires and excludes, as masks: words by their postings, phrases by the texts that remain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sage.errors import InvalidRequest
from sage.middleware.retrieval.keywords.postings import Mask, Postings
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.query_syntax import Clause, KeywordQuery

Texts = Callable[[Sequence[int]], Sequence[str | None]]
_BATCH = 256
"""Texts that are read from the store at a time."""
MOST_TEXTS = 100_000
"""Texts that are read at most for the phrases of one query: a second or two of work."""


def clause_masks(
    segments: Sequence[tuple[Postings, Mask | None]],
    starts: Sequence[int],
    query: KeywordQuery,
    analyzer: Analyzer,
    texts: Texts,
    allowed: Sequence[Mask | None],
    limit: int = MOST_TEXTS,
) -> list[Mask]:
    """For each segment the live documents that are ``allowed``, meet every required clause and no excluded one.

    Raises :class:`InvalidRequest` when more than ``limit`` texts would have to be read for phrases.
    """
    masks: list[Mask] = []
    clauses = sorted(
        [(bool(clause.sequence), clause, True) for clause in query.required]
        + [(bool(clause.sequence), clause, False) for clause in query.excluded],
        key=lambda each: each[0],
    )
    for (postings, live), start, allowed_mask in zip(segments, starts, allowed, strict=False):
        mask = np.ones(postings.size, np.bool_) if live is None else live.copy()
        if allowed_mask is not None:
            mask &= allowed_mask
        for _, clause, is_required in clauses:
            is_met = _meeting(postings, clause, mask)
            if clause.sequence:
                limit -= int(np.count_nonzero(is_met))
                if limit < 0:
                    raise _too_common(clause)
                is_met = _with_phrase(is_met, clause, start, analyzer, texts)
            if clause.whole is not None:
                is_met[postings.postings(clause.whole)[0]] = True
                is_met &= mask
            mask &= is_met if is_required else ~is_met
        masks.append(mask)
    return masks


def _too_common(clause: Clause) -> InvalidRequest:
    return InvalidRequest(
        f"the words of the phrase '{clause.text}' occur together in too many documents to search each for the phrase; "
        "add a rarer +word, or a filter",
        param="query",
        code="phrase_too_common",
    )


def _meeting(postings: Postings, clause: Clause, mask: Mask) -> Mask:
    """Which documents of ``mask`` hold all terms of the clause."""
    is_met = np.zeros(postings.size, np.bool_)
    lists = [postings.postings(term)[0] for term in clause.terms]
    lists.sort(key=len)
    if lists and len(lists[0]):
        ordinals = lists[0]
        for other in lists[1:]:
            ordinals = ordinals[np.isin(ordinals, other, assume_unique=True)] if len(ordinals) else ordinals
        is_met[ordinals] = True
    return is_met & mask


def _with_phrase(is_met: Mask, clause: Clause, start: int, analyzer: Analyzer, texts: Texts) -> Mask:
    candidates = np.flatnonzero(is_met)
    follows_in_text = np.zeros(len(is_met), np.bool_)
    for begin in range(0, len(candidates), _BATCH):
        batch = candidates[begin : begin + _BATCH]
        for ordinal, text in zip(batch.tolist(), texts((batch + start).tolist()), strict=True):
            follows_in_text[ordinal] = text is not None and follows(analyzer.atoms(text), clause.sequence)
    return follows_in_text


def follows(words: Sequence[str], sequence: Sequence[str]) -> bool:
    """Whether the words of ``sequence`` follow each other somewhere in ``words``."""
    size, first = len(sequence), sequence[0]
    index = 0
    expected = list(sequence)
    try:
        while True:
            index = words.index(first, index)
            if list(words[index : index + size]) == expected:
                return True
            index += 1
    except ValueError:
        return False
