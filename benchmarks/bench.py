"""Interleaved rounds: every subject gets a short turn of a row, then the next round begins in another order."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from load import Load, Result
from subjects import Subject
from wire import FIRST_NUMBER, Ask


@dataclass(frozen=True)
class Figure:
    """One number of a row."""

    key: str
    title: str
    digits: int = 1
    is_ratio: bool = False
    """It is a ratio or a share itself, so its ratio to the yardstick says nothing."""


class Row(Protocol):
    """One thing that is measured, with its figures; a turn is one short look at one subject."""

    name: str
    about: str
    figures: tuple[Figure, ...]
    rounds: int
    """How often each subject has its turn in a whole run."""

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]: ...

    def takes(self, subject: Subject) -> bool: ...


class OfAll:
    """A row in which the upstream itself takes part."""

    def takes(self, subject: Subject) -> bool:
        return not subject.only_in


class OfServers:
    """A row that says nothing of the upstream itself."""

    def takes(self, subject: Subject) -> bool:
        return subject.name != "direct" and not subject.only_in


@dataclass
class Tally:
    """Answers of one subject: how many were checked, and what was wrong with some."""

    checked: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        self.checked += result.requests
        self.failures += result.failures


class Bench:
    """Runs rows over subjects; ``scale`` and ``rounds`` are shares of each row's own numbers."""

    def __init__(self, upstream_port: int, scale: float = 1.0, rounds: float = 1.0) -> None:
        self.upstream_port = upstream_port
        self._scale = scale
        self._rounds = rounds
        self.numbers = itertools.count(FIRST_NUMBER)
        self._row = ""
        self.tallies: dict[str, dict[str, Tally]] = {}
        """Row, subject, and its answers."""
        self.seen: dict[str, dict[str, list[dict[str, float]]]] = {}
        """Row, subject, and what each of its turns saw; turns of the same index belong to the same round."""

    def requests(self, count: int, subject: Subject, least: int = 1) -> int:
        """How many of a full turn's requests this subject gets."""
        return max(least, round(count * self._scale * subject.share))

    def seconds(self, whole: float) -> float:
        """How long a wait of a full turn is."""
        return whole * min(1.0, self._scale)

    async def run(self, rows: Sequence[Row], subjects: Sequence[Subject], done: Callable[[Row], None]) -> None:
        """All rounds of all rows; ``done`` is called after each row."""
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            # An exception of a plain signal handler could end in a callback of the parser, which swallows it.
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        for row in rows:
            await self._run_row(
                row, [subject for subject in subjects if row.name in subject.only_in or row.takes(subject)]
            )
            done(row)

    async def _run_row(self, row: Row, subjects: list[Subject]) -> None:
        order = random.Random(row.name)
        self._row = row.name
        seen = self.seen.setdefault(row.name, {subject.name: [] for subject in subjects})
        rounds = max(1, round(row.rounds * self._rounds))
        for turn in range(rounds):
            for subject in order.sample(subjects, len(subjects)):
                if sys.stderr.isatty():
                    print(f"\r{row.name}, {turn + 1} of {rounds}: {subject.name:20}", end="", file=sys.stderr)
                seen[subject.name].append(await row.turn(self, subject))
        if sys.stderr.isatty():
            print("\r" + " " * 60, end="\r", file=sys.stderr)

    async def load(self, subject: Subject, connections: int, requests: int, ask: Ask) -> tuple[float, Result]:
        """CPU seconds of the server and what came back, both after a warm-up of each connection."""
        async with self.loading(subject, connections, ask) as load:
            self.count(subject, await load.run(connections))
            before = subject.server.cpu()
            result = await load.run(requests)
            spent = subject.server.cpu().since(before)
        self.count(subject, result)
        return spent, result

    def loading(self, subject: Subject, connections: int, ask: Ask, rest: float = 0.0) -> Load:
        """Connections to a subject; its runs are to be counted."""
        return Load(subject.target, connections, self.numbers, ask, rest)

    def count(self, subject: Subject, result: Result) -> None:
        """Adds a run to what was seen of the subject in this row."""
        self.tallies.setdefault(self._row, {}).setdefault(subject.name, Tally()).add(result)
