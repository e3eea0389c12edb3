"""How well a ranking puts judged documents first, as trec_eval has it: every score is from 0 to 1, higher is better.

``ranking`` are ids, the best first; ``grades`` are the judgements of one query, of which those above 0 are relevant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Grades = Mapping[str, float]
DEPTH = 10
"""How far a ranking is looked at where nothing else is said."""
DEEPEST = 1000
_NAME = re.compile(r"([a-z_]+)(?:@([1-9][0-9]{0,3}))?")


def ndcg(ranking: Sequence[str], grades: Grades, depth: int = DEPTH) -> float:
    """The gain of what was found, less for lower places, as a share of the best possible (Järvelin and Kekäläinen
    2002, with the grade itself as gain)."""
    best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)[:depth]
    gained = _discounted([max(0.0, grades.get(document, 0.0)) for document in ranking[:depth]])
    return gained / _discounted(best) if best else 0.0


def recall(ranking: Sequence[str], grades: Grades, depth: int = DEPTH) -> float:
    """The share of the relevant documents that were found."""
    relevant = _relevant(grades)
    return len(relevant.intersection(ranking[:depth])) / len(relevant) if relevant else 0.0


def precision(ranking: Sequence[str], grades: Grades, depth: int = DEPTH) -> float:
    """The share of the first ``depth`` places that hold a relevant document; an empty place holds none."""
    return len(_relevant(grades).intersection(ranking[:depth])) / depth


def hit_rate(ranking: Sequence[str], grades: Grades, depth: int = DEPTH) -> float:
    """1 if any relevant document was found."""
    return float(not _relevant(grades).isdisjoint(ranking[:depth]))


def reciprocal_rank(ranking: Sequence[str], grades: Grades, depth: int = DEPTH) -> float:
    """1 divided by the place of the first relevant document, of which the first is 1."""
    relevant = _relevant(grades)
    return next((1 / place for place, document in enumerate(ranking[:depth], 1) if document in relevant), 0.0)


def average_precision(ranking: Sequence[str], grades: Grades, depth: int = DEPTH) -> float:
    """The mean, over all relevant documents, of the precision at their places; 0 for one that was not found."""
    relevant = _relevant(grades)
    found, total = 0, 0.0
    for place, document in enumerate(ranking[:depth], 1):
        if document in relevant:
            found += 1
            total += found / place
    return total / len(relevant) if relevant else 0.0


def _relevant(grades: Grades) -> set[str]:
    return {document for document, grade in grades.items() if grade > 0}


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains))


RANKING_METRICS: dict[str, Callable[[Sequence[str], Grades, int], float]] = {
    "ndcg": ndcg,
    "recall": recall,
    "precision": precision,
    "mrr": reciprocal_rank,
    "map": average_precision,
    "hit_rate": hit_rate,
}
"""Each by its name in requests and reports, where ``@10`` behind it is the depth."""


@dataclass(frozen=True, slots=True)
class RankingMetric:
    """One of :data:`RANKING_METRICS` at a depth, such as ``ndcg@10``."""

    name: str
    depth: int = DEPTH

    @classmethod
    def read(cls, text: str) -> RankingMetric | None:
        """``None`` means that ``text`` names none."""
        match = _NAME.fullmatch(text)
        if match is None or match[1] not in RANKING_METRICS:
            return None
        depth = int(match[2] or DEPTH)
        return cls(match[1], depth) if depth <= DEEPEST else None

    def __str__(self) -> str:
        return f"{self.name}@{self.depth}"

    def score(self, ranking: Sequence[str], grades: Grades) -> float:
        return RANKING_METRICS[self.name](ranking, grades, self.depth)
