"""The report of an evaluation, made of its result lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage.middleware.evaluation.statistics import mean, paired_interval, percentile

Line = Mapping[str, Any]
"""One question's result: ``system`` (which), ``question_id``, ``scores``, ``latency_ms``, ``usage``, ``cost``; with
``error`` for one that failed."""


@dataclass(slots=True)
class SystemScores:
    """What one system got: a model, with a collection or without, or the search of a collection."""

    names: Mapping[str, Any]
    """How the report calls it."""
    count: int = 0
    failed: int = 0
    scores: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    """By metric, then by question."""
    missing: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By metric, how many answers could not be scored."""
    latencies: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    """In US dollars, of the answers whose price is known."""
    unpriced: int = 0
    """How many answers have a price that nobody knows."""
    usage: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, line: Line) -> None:
        self.count += 1
        if line.get("error") is not None:
            self.failed += 1
            return
        for metric, score in (line.get("scores") or {}).items():
            if score is None:
                self.missing[metric] += 1
            else:
                self.scores[metric][line["question_id"]] = score
        if isinstance(line.get("latency_ms"), int | float):
            self.latencies.append(line["latency_ms"])
        if isinstance(line.get("cost"), int | float):
            self.costs.append(line["cost"])
        else:
            self.unpriced += 1
        for name, count in (line.get("usage") or {}).items():
            if isinstance(count, int):
                self.usage[name] += count

    def report(self) -> dict[str, Any]:
        scores = {
            metric: {
                "mean": _rounded(mean(list(self.scores[metric].values()))),
                "count": len(self.scores[metric]),
                "missing": self.missing[metric],
            }
            for metric in sorted({*self.scores, *self.missing})
        }
        return {
            **self.names,
            "count": self.count,
            "failed": self.failed,
            "scores": scores,
            "latency_ms": {
                name: _rounded(percentile(self.latencies, s), 3) for name, s in (("p50", 0.5), ("p95", 0.95))
            },
            "seconds": _rounded(sum(self.latencies) / 1000, 3),
            "usage": dict(self.usage),
            "cost": round(sum(self.costs), 9) if self.costs else None,
            "priced": bool(self.costs) and self.unpriced == 0,
        }


class EvaluationReport:
    """Takes the lines of an evaluation in any order."""

    def __init__(self, answers: Sequence[Mapping[str, Any]], searches: Sequence[Mapping[str, Any]], seed: int) -> None:
        """The names of the systems that answer, then of those that only search, in the order of the lines' ``system``;
        ``seed`` is that of the intervals."""
        self._answers = [SystemScores(names) for names in answers]
        self._searches = [SystemScores(names) for names in searches]
        self._seed = seed

    def add(self, line: Line) -> None:
        """Counts ``line``. A line of a system that is none is passed over: it may come of a job of another version."""
        systems = [*self._answers, *self._searches]
        index = line.get("system")
        if isinstance(index, int) and 0 <= index < len(systems):
            systems[index].add(line)

    def as_json(self) -> dict[str, Any]:
        """``{answers, searches, comparisons}``. Each system is compared with the first of its kind."""
        return {
            "answers": [system.report() for system in self._answers],
            "searches": [system.report() for system in self._searches],
            "comparisons": [*self._comparisons(self._answers), *self._comparisons(self._searches)],
        }

    def _comparisons(self, systems: Sequence[SystemScores]) -> list[dict[str, Any]]:
        compared = []
        for other in systems[1:]:
            for metric, scores in sorted(systems[0].scores.items()):
                shared = [name for name in scores if name in other.scores.get(metric, {})]
                if shared:
                    differences = [other.scores[metric][name] - scores[name] for name in shared]
                    compared.append(self._comparison(systems[0], other, metric, differences))
        return compared

    def _comparison(
        self, baseline: SystemScores, system: SystemScores, metric: str, differences: list[float]
    ) -> dict[str, Any]:
        interval = paired_interval(differences, self._seed)
        return {
            "metric": metric,
            "baseline": baseline.names,
            "system": system.names,
            "difference": _rounded(interval.mean),
            "low": _rounded(interval.low),
            "high": _rounded(interval.high),
            "count": len(differences),
        }


def _rounded(value: float | None, digits: int = 6) -> float | None:
    return None if value is None else round(value, digits)
