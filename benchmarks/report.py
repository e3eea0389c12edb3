"""What a run has seen: medians over rounds, ratios to the yardstick round by round, and the goals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench import Bench, Figure, Row

YARDSTICK = "nginx"
OURS = "gateway"


class Report:
    """The figures of a run."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def median(self, row: str, subject: str, key: str) -> float | None:
        """The median of a figure over the rounds; ``None``: not measured."""
        seen = [turn[key] for turn in self._bench.seen.get(row, {}).get(subject, []) if key in turn]
        return statistics.median(seen) if seen else None

    def ratio(self, row: str, subject: str, key: str, to: str = YARDSTICK) -> float | None:
        """The median of the ratios of each round; ``None``: not measured."""
        seen = self._bench.seen.get(row, {})
        pairs = zip(seen.get(subject, []), seen.get(to, []), strict=False)
        ratios = [own[key] / base[key] for own, base in pairs if own.get(key) and base.get(key)]
        return statistics.median(ratios) if ratios else None

    def table(self, row: Row) -> Iterator[str]:
        """A row's figures as lines, a column for each subject, each with its ratio to the yardstick."""
        subjects = list(self._bench.seen[row.name])
        yield f"{row.about}"
        yield f"{'':28}" + "".join(f"{name:>18}" for name in subjects)
        for figure in row.figures:
            yield f"  {figure.title:26}" + "".join(f"{self._cell(row, name, figure):>18}" for name in subjects)
        yield ""

    def _cell(self, row: Row, subject: str, figure: Figure) -> str:
        value = self.median(row.name, subject, figure.key)
        if value is None or math.isnan(value):
            return "–"
        ratio = None if figure.is_ratio else self.ratio(row.name, subject, figure.key)
        beside = f"{ratio:6.2f} ×" if ratio is not None and subject != YARDSTICK else " " * 8
        return f"{value:.{figure.digits}f}{beside}"

    def failures(self) -> Iterator[str]:
        """Each kind of failure, the most frequent first, and how many answers were checked."""
        for name, tally in self._bench.tallies.items():
            for fault, count in tally.failures.most_common(5):
                yield f"failure  {name}: {count} x {fault}"
        checked = (f"{name} {tally.checked}" for name, tally in self._bench.tallies.items())
        failed = sum(tally.failures.total() for tally in self._bench.tallies.values())
        yield f"{failed} failures; answers checked: {', '.join(checked)}"

    def failed(self, of: set[str]) -> bool:
        """Whether an answer of these subjects was wrong or missing."""
        return any(tally.failures for name, tally in self._bench.tallies.items() if name in of)

    def goals(self) -> Iterator[str]:
        """One line for each goal of the gateway that this run can judge."""
        for goal in GOALS:
            if (value := goal.value(self)) is not None:
                word = "reached" if round(value, goal.digits) <= goal.limit else "MISSED"
                if goal.at_least:
                    word = "reached" if round(value, goal.digits) >= goal.limit else "MISSED"
                bound = "at least" if goal.at_least else "at most"
                yield f"{word:8} {goal.title}: {value:.{goal.digits}f} (to reach: {bound} {goal.limit})"

    def as_json(self) -> dict[str, Any]:
        """Rows, subjects and figures, each with its median and its ratio to the yardstick."""
        rows = {
            row: {
                subject: {
                    key: {"median": self.median(row, subject, key), "ratio": self.ratio(row, subject, key)}
                    for key in (turns[0] if turns else ())
                }
                for subject, turns in subjects.items()
            }
            for row, subjects in self._bench.seen.items()
        }
        tallies = {
            name: {
                "checked": tally.checked,
                "failures": tally.failures.total(),
                "examples": [f"{count} x {fault}" for fault, count in tally.failures.most_common(5)],
            }
            for name, tally in self._bench.tallies.items()
        }
        return {"rows": rows, "answers": tallies, "goals": list(self.goals())}


@dataclass(frozen=True)
class Goal:
    """A bound on a figure of the gateway: on its ratio to another subject's, or on the figure itself."""

    title: str
    row: str
    key: str
    limit: float
    to: str | None = YARDSTICK
    """The subject that the ratio is to; ``None``: the figure itself is bounded."""
    digits: int = 2
    at_least: bool = False
    subject: str = OURS

    def value(self, report: Report) -> float | None:
        if self.to is None:
            return report.median(self.row, self.subject, self.key)
        return report.ratio(self.row, self.subject, self.key, self.to)


GOALS = (
    Goal("a chat request, × nginx", "request", "request_us", 5.5),
    Goal("a chat request, × smg", "request", "request_us", 1, "smg"),
    Goal("a chat request, × sglang-router", "request", "request_us", 1, "sglang-router"),
    Goal("a chat request, × vllm-router", "request", "request_us", 1.3, "vllm-router"),
    Goal("a request with a 100 ms upstream, × one with 0 ms", "slow", "slow_by_fast", 1.1, None),
    Goal("a stream's chunk, bursts, × nginx", "chunk", "chunk_us", 3),
    Goal("a prompt of 100 KB, × nginx", "prompt-100k", "prompt_us", 2),
    Goal("a prompt of 1 MB, × nginx", "prompt-1m", "prompt_us", 2),
)
