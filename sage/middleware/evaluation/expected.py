"""What a question of an evaluation expects, and the names of the scores that an answer can have."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

ANSWER_METRICS = (
    *("exact_match", "normalized_match", "f1", "contains", "rouge_l"),  # of texts
    *("number_match", "regex_match", "judge"),
)
"""Each by its name in requests and reports."""
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
