"""What a request through the gateway costs, beside a bare aiohttp pass-through in the same run.

Starts a fast local upstream, the pass-through, the gateway (one worker, key check on) and, if asked, a peer; sends each
the same load in turns and prints medians over the rounds. Every answer is checked whole. Exit status 1 if any answer
(but a peer's) was wrong or missing, never because of speed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import signal
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import subjects
import uvloop
from load import Load
from processes import BenchmarkError
from subjects import Subject
from wire import FIRST_NUMBER

_NO_PEER = (
    "litellm is not installed: python -m venv litellm-venv && litellm-venv/bin/pip install 'litellm[proxy]', "
    "then --peer-command litellm-venv/bin/litellm"
)
_ROWS = (
    ("CPU µs a request", "request_us", 1),
    ("requests a second", "per_second", 0),
    ("p50 ms, 1 connection", "p50_1", 3),
    ("  added over direct", "added_p50_1", 3),
    ("p99 ms, 1 connection", "p99_1", 3),
    ("  added over direct", "added_p99_1", 3),
    ("p50 ms, 8 connections", "p50_8", 3),
    ("  added over direct", "added_p50_8", 3),
    ("p99 ms, 8 connections", "p99_8", 3),
    ("  added over direct", "added_p99_8", 3),
    ("CPU µs a stream chunk", "chunk_us", 2),
    ("  without the request", "chunk_marginal_us", 2),
    ("start to ready, s", "ready_s", 2),
    ("idle memory, RSS MiB", "idle_rss_mib", 1),
    ("idle memory, PSS MiB", "idle_pss_mib", 1),
    ("memory after, RSS MiB", "after_rss_mib", 1),
    ("answers checked", "checked", 0),
    ("failures", "failures", 0),
)
_GOALS = (
    ("CPU µs a request", "request_us", 180, 1),
    ("CPU µs a stream chunk in bursts", "chunk_us", 12, 2),
    ("failures", "failures", 0, 0),
    ("idle memory, RSS MiB", "idle_rss_mib", 150, 1),
    ("start to ready, seconds", "ready_s", 2, 2),
)


@dataclass
class Measured:
    """What the rounds saw of one subject."""

    rounds: list[dict[str, float]] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    checked: int = 0

    def median(self, name: str) -> float:
        return statistics.median(seen[name] for seen in self.rounds)


class Bench:
    """The load on every subject, round after round."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._numbers = itertools.count(FIRST_NUMBER)
        self.measured: dict[str, Measured] = {}

    async def run(self, chosen: list[Subject]) -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            # An exception of a plain signal handler could end in a callback of the parser, which swallows it.
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        for turn in range(self._options.rounds):
            for subject in chosen if turn % 2 == 0 else reversed(chosen):
                if sys.stderr.isatty():
                    print(f"\rround {turn + 1} of {self._options.rounds}: {subject.name:14}", end="", file=sys.stderr)
                await self._round(subject, self.measured.setdefault(subject.name, Measured()))
        if sys.stderr.isatty():
            print("\r" + " " * 40, end="\r", file=sys.stderr)

    async def _round(self, subject: Subject, measured: Measured) -> None:
        share = subject.share / self._options.rounds
        requests, streams = (max(1, round(n * share)) for n in (self._options.requests, self._options.streams))
        chunks = self._options.chunks
        seen: dict[str, float] = {}
        cpu, _, seconds = await self._load(subject, measured, self._options.connections, requests)
        seen["request_us"], seen["per_second"] = cpu / requests * 1e6, requests / seconds
        # Fewer connections: were the server busy all the time, bursts would melt into one another unread.
        cpu, _, _ = await self._load(subject, measured, min(32, self._options.connections), streams, chunks)
        seen["chunk_us"] = cpu / streams / chunks * 1e6
        seen["chunk_marginal_us"] = seen["chunk_us"] - seen["request_us"] / chunks
        for connections in (1, 8):
            _, quantiles, _ = await self._load(subject, measured, connections, max(1, requests * connections // 16))
            seen[f"p50_{connections}"], seen[f"p99_{connections}"] = quantiles
        measured.rounds.append(seen)

    async def _load(
        self, subject: Subject, measured: Measured, connections: int, requests: int, chunks: int = 0
    ) -> tuple[float, tuple[float, float], float]:
        """CPU seconds of the server, p50 and p99 in ms and seconds of the clock, all after a warm-up."""
        async with Load(subject.target, connections, self._numbers, chunks=chunks) as load:
            warm_up = await load.run(max(connections, requests // 10))
            before = subject.server.cpu_seconds()
            result = await load.run(requests)
            spent = subject.server.cpu_seconds() - before
        for run in (warm_up, result):
            measured.failures += run.failures
            measured.checked += run.requests
        return spent, (result.quantile(0.5) * 1e3, result.quantile(0.99) * 1e3), result.seconds


def summary(subject: Subject, measured: Measured, direct: Measured) -> dict[str, Any]:
    """The figures of one subject, rounds folded into medians; what is added over direct is taken round by round."""
    figures: dict[str, Any] = {name: measured.median(name) for name in measured.rounds[0]}
    if measured is not direct:
        for name in ("p50_1", "p99_1", "p50_8", "p99_8"):
            pairs = zip(measured.rounds, direct.rounds, strict=True)
            figures[f"added_{name}"] = statistics.median(own[name] - base[name] for own, base in pairs)
    if subject.idle is not None:
        figures["ready_s"] = subject.ready
        figures["idle_rss_mib"], figures["idle_pss_mib"] = subject.idle
        figures["after_rss_mib"] = subject.server.memory()[0]
    figures |= {"checked": measured.checked, "failures": measured.failures.total()}
    figures["examples"] = [f"{count} x {fault}" for fault, count in measured.failures.most_common(5)]
    return figures


def table(figures: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The figures as lines, a column for each subject and one for gateway / pass-through."""
    yield f"{'':24}" + "".join(f"{name:>14}" for name in figures) + f"{'ratio':>9}"
    for title, key, digits in _ROWS:
        cells = [f"{own[key]:.{digits}f}" if key in own else "–" for own in figures.values()]
        ours, theirs = figures["gateway"].get(key), figures["pass-through"].get(key)
        ratio = f"{ours / theirs:.2f}" if ours and theirs and key not in ("checked", "failures") else ""
        yield f"{title:24}" + "".join(f"{cell:>14}" for cell in cells) + f"{ratio:>9}"


def goals(ours: dict[str, Any]) -> Iterator[str]:
    """One line for each goal of the gateway."""
    for title, key, limit, digits in _GOALS:
        mark = "reached" if round(ours[key], digits) <= limit else "MISSED"
        yield f"{mark:8} {title} {ours[key]:.{digits}f} (to reach: at most {limit})"


def _subjects(stack: ExitStack, folder: Path, options: argparse.Namespace) -> list[Subject]:
    script = ["--chunks", str(options.chunks), "--burst", str(options.burst), "--pause", str(options.pause)]
    direct = stack.enter_context(subjects.upstream(folder, [*script, "--corrupt", str(options.corrupt)]))
    port = direct.target.port
    chosen = [direct, stack.enter_context(subjects.pass_through(folder, port))]
    chosen.append(stack.enter_context(subjects.gateway(folder, port, options.access_log)))
    if options.peer == "litellm":
        executable = shutil.which(options.peer_command)
        if executable is None:
            print(_NO_PEER, file=sys.stderr)
        else:
            chosen.append(stack.enter_context(subjects.litellm(folder, port, executable)))
    return chosen


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Starts everything, runs the load and returns the figures; whatever happens, nothing is left running."""
    subjects.require_linux()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sage-bench-")))
        chosen = _subjects(stack, folder, options)
        bench = Bench(options)
        try:
            uvloop.run(bench.run(chosen))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            signal.signal(signal.SIGTERM, _ended)
        direct = bench.measured["direct"]
        return {subject.name: summary(subject, bench.measured[subject.name], direct) for subject in chosen}


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = parser.add_argument
    number("--requests", type=int, default=20_000, help="requests to each server, over all rounds (20000)")
    number("--connections", type=int, default=64, help="connections at the same time (64)")
    number("--streams", type=int, default=2_560, help="streams from each server, over all rounds (2560)")
    number("--chunks", type=int, default=200, help="chunks in a stream (200)")
    number("--burst", type=int, default=8, help="chunks that the upstream writes at once (8)")
    number("--pause", type=float, default=0.005, help="seconds between two bursts (0.005)")
    number("--rounds", type=int, default=5, help="turns over all servers (5)")
    number("--quick", action="store_true", help="two rounds on a fifth of the load, for a first look")
    number("--peer", choices=["litellm"], help="measure this peer too")
    number("--peer-command", default="litellm", help="where its command is (litellm)")
    number("--access-log", action=argparse.BooleanOptionalAction, default=True, help="the gateway's own, into a file")
    number("--corrupt", type=float, default=0.0, help="share of answers that the upstream spoils: each must count")
    number("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.requests, options.streams = 2, options.requests // 5, options.streams // 5
    return options


def _ended(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    signal.signal(signal.SIGTERM, _ended)
    try:
        figures = measure(options)
    except BenchmarkError as exc:
        print(f"benchmark failed: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("ended before its time; nothing is left running", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        print("\n".join([*table(figures), "", *goals(figures["gateway"])]))
        for name, own in figures.items():
            for example in own["examples"]:
                print(f"failure  {name}: {example}")
    return 1 if any(own["failures"] for name, own in figures.items() if name != options.peer) else 0


if __name__ == "__main__":
    sys.exit(main())
