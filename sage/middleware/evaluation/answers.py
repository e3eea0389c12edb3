"""How well an answer matches what was expected: every score is from 0 to 1, and higher is better."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from sage.middleware.evaluation.expected import ExpectedAnswer
from sage.middleware.evaluation.words import answer_words, plain_words
from sage.middleware.retrieval.text.scripts import normalize

_NUMBER = re.compile(
    r"(?:(?<![\w)])[-+])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\w))?", re.ASCII
)


def exact_match(answer: str, expected: str) -> float:
    """1 if both are the same text, apart from space around them."""
    return float(answer.strip() == expected.strip())


def normalized_match(answer: str, expected: str) -> float:
    """1 if both have the same words in the same order, as SQuAD compares them."""
    return float(answer_words(answer) == answer_words(expected))


def token_f1(answer: str, expected: str) -> float:
    """The harmonic mean of precision and recall of the words that both have, as in SQuAD."""
    given, wanted = answer_words(answer), answer_words(expected)
    if not given or not wanted:
        return float(given == wanted)
    return _f1((Counter(given) & Counter(wanted)).total(), len(given), len(wanted))


def contains(answer: str, expected: str) -> float:
    """1 if the words of ``expected`` stand in ``answer``, one after the other."""
    given, wanted = answer_words(answer), answer_words(expected)
    if not wanted:
        return float(not given)
    return float(f"\0{_joined(wanted)}\0" in f"\0{_joined(given)}\0")


def rouge_l(answer: str, expected: str) -> float:
    """ROUGE-L: the F1 of the longest common subsequence of words (Lin 2004)."""
    given, wanted = plain_words(answer), plain_words(expected)
    if not given or not wanted:
        return float(given == wanted)
    return _f1(common_subsequence(given, wanted), len(given), len(wanted))


def number_match(answer: str, expected: ExpectedAnswer) -> float:
    """1 if the last number of ``answer`` is the one that is expected."""
    numbers = _NUMBER.findall(normalize(answer))
    if not numbers or expected.number is None:
        return 0.0
    return float(abs(float(numbers[-1].replace(",", "")) - expected.number) <= expected.tolerance)


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence, by bits (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    mask = (1 << len(first)) - 1
    row = mask
    for word in second:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & mask
    return len(first) - row.bit_count()


TEXT_METRICS: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "normalized_match": normalized_match,
    "f1": token_f1,
    "contains": contains,
    "rouge_l": rouge_l,
}


def score_answer(answer: str, expected: ExpectedAnswer, metrics: Iterable[str]) -> dict[str, float]:
    """The scores among ``metrics`` that this kind of expectation has; of several texts the best counts. Those of a
    regular expression and of a judge are made elsewhere."""
    scores: dict[str, float] = {}
    for name in metrics:
        if name in TEXT_METRICS and expected.texts:
            scores[name] = max(TEXT_METRICS[name](answer, text) for text in expected.texts)
        elif name == "number_match" and expected.number is not None:
            scores[name] = number_match(answer, expected)
    return scores


def _joined(words: Sequence[str]) -> str:
    return "\0".join(words)


def _f1(shared: int, given: int, wanted: int) -> float:
    return 2 * shared / (given + wanted)
