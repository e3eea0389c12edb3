"""What a run has seen: medians over rounds, ratios to the yardstick round by round, and the goals."""

from __future__ import annotations

import math
import statistics
from collections import Counter
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
        """A row's figures as lines, one for each subject, each with its ratio to the yardstick."""
        subjects = self._bench.seen[row.name]
        by = YARDSTICK in subjects
        yield row.about
        widths = [max(len(figure.title), 8) for figure in row.figures]
        titles = zip(row.figures, widths, strict=True)
        yield f"  {'':14}" + "".join(f"  {one.title:>{width}}{self._head(one, by)}" for one, width in titles)
        for subject in subjects:
            cells = [self._cell(row, subject, *pair, by=by) for pair in zip(row.figures, widths, strict=True)]
            yield f"  {subject:14}" + "".join(cells)
        yield ""

    def _head(self, figure: Figure, by: bool) -> str:
        return f"{'× ' + YARDSTICK:>9}" if by and not figure.is_ratio else ""

    def _cell(self, row: Row, subject: str, figure: Figure, width: int, by: bool) -> str:
        if self._failed(row.name, subject):
            return f"  {'failed':>{width}}" + (f"{'':9}" if self._head(figure, by) else "")
        value = self.median(row.name, subject, figure.key)
        shown = "–" if value is None or math.isnan(value) else f"{value:.{figure.digits}f}"
        beside = ""
        if self._head(figure, by):
            ratio = self.ratio(row.name, subject, figure.key)
            beside = f"{'–' if ratio is None else format(ratio, '.2f'):>9}"
        return f"  {shown:>{width}}{beside}"

    def _failed(self, row: str, subject: str) -> bool:
        """Whether so many answers were wrong or missing that figures mean nothing."""
        tally = self._bench.tallies.get(row, {}).get(subject)
        return tally is not None and tally.failures.total() > tally.checked / 100

    def failures(self) -> Iterator[str]:
        """Each kind of failure with its row and subject, and how many answers were checked."""
        checked: Counter[str] = Counter()
        failed = 0
        for row, subjects in self._bench.tallies.items():
            for name, tally in subjects.items():
                checked[name] += tally.checked
                failed += tally.failures.total()
                for fault, count in tally.failures.most_common(5):
                    yield f"failure  {row}, {name}: {count} x {fault}"
        yield f"{failed} failures; answers checked: {', '.join(f'{name} {count}' for name, count in checked.items())}"

    def failed(self, of: set[str]) -> bool:
        """Whether an answer of these subjects was wrong or missing."""
        tallies = (tally for subjects in self._bench.tallies.values() for name, tally in subjects.items() if name in of)
        return any(tally.failures for tally in tallies)

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
        answers = {
            row: {
                name: {
                    "checked": tally.checked,
                    "failures": tally.failures.total(),
                    "examples": [f"{count} x {fault}" for fault, count in tally.failures.most_common(5)],
                }
                for name, tally in subjects.items()
            }
            for row, subjects in self._bench.tallies.items()
        }
        return {"rows": rows, "answers": answers, "goals": list(self.goals())}


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
    subject: str = OURS
    at_least: bool = False

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
    *(
        Goal(f"{what}, × nginx {how}", row, "prompt_us", 2, to)
        for row, what in (
            ("prompt-100k", "a prompt of 100 KB"),
            ("prompt-1m", "a prompt of 1 MB"),
            ("english-100k", "100 KB of plain English"),
            ("english-1m", "1 MB of plain English"),
        )
        for to, how in ((YARDSTICK, "that streams it"), ("nginx-files", "as installed"))
    ),
    Goal("small requests beside images of 5 MB, p99 ms more", "beside-images", "added_p99", 20, None, 1),
    Goal("small requests beside prompts of 1 MB, p99 ms more", "beside-prompts", "added_p99", 20, None, 1),
    Goal("1,000 streams at once, first chunk p99, × nginx", "first-chunks", "first_p99", 1.5),
    Goal("2,000 open streams, KiB of RSS each", "open-streams", "rss_kib", 30, None, 1),
    Goal("2,000 open streams, % of it given back", "open-streams", "given_back", 90, None, 0, at_least=True),
    # Two hold 1.8 × what one holds until the busier is full.
    Goal("two workers, the busier's CPU by all requests, × one's", "workers", "busiest_us", 0.56, OURS, 2, "2 workers"),
    Goal("idle memory, RSS MiB", "start", "idle_rss", 100, None, 1),
    Goal("start to ready, seconds", "start", "ready_s", 1, None),
)
