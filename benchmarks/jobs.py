"""What a durable job costs beside bare Celery on the same broker, and what live calls feel of a batch.

Starts a scripted upstream, a Valkey, and on each broker (files, Redis) the gateway with its worker and bare Celery with
one of two processes, and gives each the same jobs in turns. Every job must end well. Exit status 1 if one did not,
never because of speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import subjects
import uvloop
from jobs_batch import BatchOverhead, LiveBeside, batch_overhead, live_beside_batch
from jobs_subjects import JobSubject, SageJobs, bare_celery, sage_jobs, valkey
from load import Load
from processes import BenchmarkError, Server
from wire import FIRST_NUMBER, PUBLIC_MODEL

_OURS = "sage"
_ROWS = (
    ("CPU µs a job", "cpu_us", 0),
    ("  less its call of a model", "own_us", 0),
    ("accepted a second", "accepted", 0),
    ("done a second", "done", 0),
    ("to start ms, p50 of all", "start_p50", 1),
    ("to start ms, p99 of all", "start_p99", 1),
    ("to end ms, p50 of all", "end_p50", 1),
    ("to end ms, p99 of all", "end_p99", 1),
    ("alone: to start ms, p50", "alone_start_p50", 1),
    ("alone: to start ms, p99", "alone_start_p99", 1),
    ("alone: to end ms, p50", "alone_end_p50", 1),
    ("alone: to end ms, p99", "alone_end_p99", 1),
)


class JobBench:
    """The jobs of every subject, round after round."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._rounds: dict[str, list[dict[str, float]]] = {}
        self._alone: dict[str, list[tuple[float, float]]] = {}

    async def run(self, chosen: list[JobSubject]) -> None:
        for subject in chosen:
            await subject.run(max(20, self._options.jobs // 10))  # a warm-up
        for turn in range(self._options.rounds):
            for subject in chosen if turn % 2 == 0 else reversed(chosen):
                _tell(f"round {turn + 1} of {self._options.rounds}: {subject.name}")
                seen = await subject.run(self._options.jobs)
                self._rounds.setdefault(subject.name, []).append(seen.figures())
                for _ in range(self._options.alone):
                    self._alone.setdefault(subject.name, []).append(await subject.run_one())

    def figures(self, call_us: float, calling: set[str]) -> dict[str, dict[str, float]]:
        """The medians of each subject. ``call_us``: what a live call of a model costs the gateway, in CPU."""
        figures = {}
        for name, rounds in self._rounds.items():
            values = {key: statistics.median(seen[key] for seen in rounds) for key in rounds[0]}
            values["own_us"] = values["cpu_us"] - (call_us if name in calling else 0.0)
            for index, what in enumerate(("start", "end")):
                alone = sorted(seen[index] * 1e3 for seen in self._alone[name])
                values[f"alone_{what}_p50"] = statistics.median(alone)
                values[f"alone_{what}_p99"] = alone[min(len(alone) - 1, int(len(alone) * 0.99))]
            figures[name] = values
        return figures


async def call_cost(subject: SageJobs, calls: int) -> float:
    """CPU µs of a live call of a model, at as many at a time as a job's lines."""
    async with Load(subject.target, 8, itertools.count(FIRST_NUMBER)) as load:
        await load.run(calls // 10)
        before = subject.server.cpu_seconds()
        result = await load.run(calls)
        if result.failures:
            raise BenchmarkError(f"live calls failed: {result.failures.most_common(3)}")
        return (subject.server.cpu_seconds() - before) / calls * 1e6


def _subjects(stack: ExitStack, options: argparse.Namespace, folder: Path, upstream_port: int) -> dict[str, Any]:
    """The subjects by their names, on each broker: ours, Celery with the same call, Celery that does nothing."""
    redis = options.redis or stack.enter_context(valkey(folder))
    brokers = {"files": ("filesystem://", None), "redis": (f"{redis}/1", f"{redis}/0")}
    found: dict[str, Any] = {}
    for broker, (celery_url, ours_url) in brokers.items():
        if broker not in options.brokers:
            continue
        ours = stack.enter_context(sage_jobs(f"{broker}: {_OURS}", folder / f"sage-{broker}", upstream_port, ours_url))
        found[ours.name] = ours
        backend = f"db+sqlite:///{folder}/results.db" if broker == "files" else f"{redis}/2"
        call = {
            "BENCH_URL": f"http://127.0.0.1:{ours.target.port}/generate",
            "BENCH_KEY": ours.target.key,
            "BENCH_MODEL": PUBLIC_MODEL,
        }
        kinds: dict[str, tuple[str | None, dict[str, str], Server | None]] = {
            "celery": (backend, call, ours.server),
            "celery, no-op": (backend, {}, None),
            "no results": (None, {}, None),
        }
        for index, (kind, (results, task, gateway)) in enumerate(kinds.items()):
            name, place = f"{broker}: {kind}", folder / f"celery-{broker}-{index}"
            url = celery_url if broker == "files" else f"{redis}/{index + 3}"
            found[name] = stack.enter_context(bare_celery(name, place, url, results, task, gateway))
    return found


def table(figures: dict[str, dict[str, float]], brokers: list[str]) -> Iterator[str]:
    """The figures as lines, a table for each broker."""
    for broker in brokers:
        names = [name for name in figures if name.startswith(broker)]
        yield f"{broker:28}" + "".join(f"{name.partition(': ')[2]:>16}" for name in names)
        for title, key, digits in _ROWS:
            yield f"{title:28}" + "".join(f"{figures[name][key]:>16.{digits}f}" for name in names)
        ours, celery, noop = (figures[f"{broker}: {kind}"] for kind in (_OURS, "celery", "celery, no-op"))
        yield f"CPU a job that calls a model, ours / Celery's: {ours['cpu_us'] / celery['cpu_us']:.2f} (goal: 1.5)"
        yield f"CPU a job beside its call, ours / Celery's no-op: {ours['own_us'] / noop['cpu_us']:.2f} (goal: 1.5)"
        yield ""


def batch_lines(overhead: BatchOverhead | None, live: list[LiveBeside]) -> Iterator[str]:
    """What was seen of batches, as lines."""
    if overhead is not None:
        yield (
            f"batch lines a second: {overhead.per_second:.0f} (live calls, 8 at a time: {overhead.live_per_second:.0f})"
        )
        yield f"CPU µs a line: {overhead.line_us:.0f}, a live call: {overhead.call_us:.0f}"
    for seen in live:
        yield (
            f"live p99 ms, {seen.clients} clients, upstream {seen.delay * 1e3:.0f} ms: {seen.without:.2f} without, "
            f"{seen.beside:.2f} beside a batch ({seen.lines:.0f} lines a second): {seen.ratio:.2f} (goal: 1.2)"
        )


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures."""
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        up = stack.enter_context(subjects.upstream(folder, []))
        chosen = _subjects(stack, options, folder, up.target.port)
        async with AsyncExitStack() as sessions:
            ours = [
                await sessions.enter_async_context(subject)
                for subject in chosen.values()
                if isinstance(subject, SageJobs)
            ]
            bench = JobBench(options)
            await bench.run(list(chosen.values()))
            call_us = await call_cost(ours[0], options.calls)
            calling = {name for name in chosen if name.endswith((f": {_OURS}", ": celery"))}
            found["jobs"] = bench.figures(call_us, calling)
            if options.lines:
                _tell("a batch")
                found["batch"] = await batch_overhead(ours[0], options.lines, call_us)
    found["live"] = []
    for delay in options.delays:
        with ExitStack() as stack:
            place = folder / f"live-{delay}"
            place.mkdir()
            up = stack.enter_context(subjects.upstream(place, ["--delay", str(delay)]))
            async with stack.enter_context(sage_jobs("live", place / "sage", up.target.port, None)) as subject:
                _tell(f"live calls beside a batch, upstream {delay} s")
                found["live"].append(await live_beside_batch(subject, delay, options))
    return found


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{what:70}", end="\r", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of a subject in a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--alone", type=int, default=10, help="jobs of a subject in a round that run alone")
    parser.add_argument("--calls", type=int, default=5000, help="live calls that are measured")
    parser.add_argument("--lines", type=int, default=3000, help="lines of the batch; 0: none")
    parser.add_argument("--clients", type=int, default=16, help="live clients beside the batch")
    parser.add_argument("--live-seconds", type=float, default=4.0, help="of live calls in a round, with and without")
    parser.add_argument("--live-rounds", type=int, default=4)
    parser.add_argument("--delays", type=float, nargs="*", default=[0.1, 0.0], help="seconds that the upstream takes")
    parser.add_argument("--brokers", nargs="+", choices=("files", "redis"), default=["files", "redis"])
    parser.add_argument("--redis", help="a server such as redis://127.0.0.1:6379, in place of Valkey; it is written to")
    parser.add_argument("--quick", action="store_true", help="a first look, under a minute")
    parser.add_argument("--json", action="store_true", help="the figures for a program")
    options = parser.parse_args()
    if options.quick:
        options.jobs, options.rounds, options.alone, options.calls = 150, 1, 3, 1000
        options.lines, options.live_seconds, options.live_rounds = min(options.lines, 500), 1.5, 2
        options.delays = options.delays[:1]
    return options


def main() -> int:
    options = _options()
    subjects.require_linux()
    try:
        with tempfile.TemporaryDirectory(prefix="sage-jobs-") as folder:
            found = uvloop.run(measure(options, Path(folder)))
    except BenchmarkError as exc:
        print(exc, file=sys.stderr)
        return 1
    if options.json:
        plain = {"batch": dataclasses.asdict(found["batch"]) if found.get("batch") else None}
        plain["live"] = [dataclasses.asdict(seen) for seen in found["live"]]
        print(json.dumps({"jobs": found["jobs"], **plain}, indent=2))
        return 0
    for line in [*table(found["jobs"], options.brokers), *batch_lines(found.get("batch"), found["live"])]:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
