"""How well an answer matches what was expected: every score is from 0 to 1, and higher is better."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sage.middleware.evaluation.words import answer_words, plain_words
from sage.middleware.retrieval.text.scripts import normalize

_NUMBER = re.compile(
    r"(?:(?<![\w)])[-+])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3}(?!\w))?", re.ASCII
)
_TOLERANCE = 1e-6
MOST_EXPECTED = 100
LONGEST_REGEX = 1000


@dataclass(frozen=True, slots=True)
class ExpectedAnswer:
    """What a question wants: one of ``texts``, a ``number``, or what a ``regex`` finds; the others are ``None``.

    A number matches within ``tolerance``, which is absolute.
    """

    texts: tuple[str, ...] = ()
    number: float | None = None
    tolerance: float = 0.0
    regex: str | None = None

    @classmethod
    def read(cls, value: Any) -> ExpectedAnswer:
        """From a text, a list of texts, a number, ``{"number", "tolerance"?}`` or ``{"regex"}``. Raises
        :class:`ValueError` that says what is wrong."""
        if isinstance(value, str):
            return cls(texts=(_text(value),))
        if isinstance(value, list):
            if not 1 <= len(value) <= MOST_EXPECTED:
                raise ValueError(f"must hold 1 to {MOST_EXPECTED} texts")
            return cls(texts=tuple(map(_text, value)))
        if isinstance(value, dict):
            return cls._read_object(value)
        number = _finite(value)
        return cls(number=number, tolerance=abs(number) * _TOLERANCE)

    @classmethod
    def _read_object(cls, value: dict[str, Any]) -> ExpectedAnswer:
        if set(value) == {"regex"}:
            regex = _text(value["regex"])
            if len(regex) > LONGEST_REGEX:
                raise ValueError(f"'regex' is longer than {LONGEST_REGEX} characters")
            try:
                re.compile(regex)
            except (re.error, OverflowError, RecursionError, Warning) as exc:
                raise ValueError(f"'regex' is no regular expression: {exc}") from None
            return cls(regex=regex)
        if "number" in value and set(value) <= {"number", "tolerance"}:
            number = _finite(value["number"])
            tolerance = _finite(value.get("tolerance", abs(number) * _TOLERANCE))
            if tolerance < 0:
                raise ValueError("'tolerance' must be 0 or more")
            return cls(number=number, tolerance=tolerance)
        raise ValueError('must be a text, texts, a number, {"number": 5, "tolerance": 0.1} or {"regex": "…"}')


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("must be a text, a list of texts, a number, or an object with a 'number' or a 'regex'")
    return float(value)


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
ANSWER_METRICS = (*TEXT_METRICS, "number_match", "regex_match", "judge")
"""Each by its name in requests and reports."""


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
