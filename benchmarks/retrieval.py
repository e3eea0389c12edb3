"""Search: quality on judged queries, speed and size on made documents, beside other engines in the same run.

Times are CPU time on one core; rates over HTTP and of writers are of wall time, with their ratios. Exit status 1 if any
answer was wrong, never because of speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")  # read when the libraries are loaded, hence before them

import numpy as np  # noqa: E402
import retrieval_crowd  # noqa: E402
import retrieval_peers  # noqa: E402
import retrieval_quality  # noqa: E402
import retrieval_speed  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from retrieval_made import Made  # noqa: E402
from retrieval_quality import Quality  # noqa: E402
from retrieval_speed import Figures  # noqa: E402

_QUALITY_GOALS = {("scifact", "bm25"): 0.686, ("scifact", "hybrid"): 0.73, ("cmrc2018", "bm25"): 0.980}
_AT_MOST = {
    100_000: {
        "keywords p50 ms": 0.1,
        "vectors p50 ms": 1.0,
        "vectors, filter keeps 10 % p50 ms": 2.0,
        "hybrid p50 ms": 2.0,
        "hybrid p99 ms": 6.0,
    },
    1_000_000: {
        "keywords p50 ms": 0.8,
        "vectors p50 ms": 7.0,
        "hybrid p50 ms": 10.0,
        "hybrid p99 ms": 25.0,
        "open and first search s": 2.0,
    },
}
_ALWAYS_AT_MOST = {
    "bytes a document beyond text and vectors": 800.0,
    "new hybrid query, 1 client, CPU ms each": 9.0,
}
_ALWAYS_AT_LEAST = {
    "recall@10": 0.98,
    "ingest docs/s of wall time": 4000.0,
    "durable batches of 10 a second, 8 writers": 300.0,
}
_OF_TWO_WORKERS_AT_LEAST = {"hybrid, vectors kept, 8 clients to 1, ×": 1.8}


def main() -> int:
    options = _options()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    report: dict[str, Any] = {"quality": [], "speed": []}
    real: NDArray[np.float32] | None = None
    failures: list[str] = []
    for folder in options.data:
        quality, vectors = retrieval_quality.measure(retrieval_quality.read(folder), options.queries)
        real = vectors if real is None else real
        report["quality"].append(dataclasses.asdict(quality))
        failures += quality.failures
        if not options.json:
            _print_quality(quality)
    for size in options.size:
        for figures in _speed(Made(size, real), options):
            report["speed"].append(dataclasses.asdict(figures))
            failures += figures.failures
            if not options.json:
                _print_figures(figures, report["speed"])
    if options.json:
        print(json.dumps(report))
    for failure in failures[:20]:
        print(f"WRONG: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _speed(made: Made, options: argparse.Namespace) -> Any:
    queries = options.queries or 300
    yield retrieval_speed.keyword_leg(made, queries)
    with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
        store = Path(scratch) / "store"
        yield retrieval_speed.store(made, queries, store, retrieval_crowd.embedder(made))
        yield retrieval_crowd.writers(made, options.writers, options.seconds, Path(scratch) / "written")
        yield from retrieval_crowd.searches(
            made, store, options.clients, options.workers, options.seconds / 3, Path(scratch)
        )
    if made.size <= options.peers_up_to:
        yield from retrieval_peers.peers(made, queries)


def _print_quality(quality: Quality) -> None:
    print(f"\n{quality.name}: {quality.documents} documents, {quality.queries} queries, nDCG@10")
    for way, value in quality.ndcg.items():
        goal = _QUALITY_GOALS.get((quality.name, way))
        print(f"  {way:<20} {value:.4f}" + (f"   goal {goal:.3f} {_mark(value >= goal)}" if goal else ""))


def _print_figures(figures: Figures, all_so_far: list[dict[str, Any]]) -> None:
    print(f"\n{figures.subject} at {figures.size:,} documents ({figures.checked} answers checked)")
    own = {
        name: value
        for other in all_so_far
        if other["size"] == figures.size and _is_own(other["subject"])
        for name, value in other["values"].items()
    }
    peer = not _is_own(figures.subject)
    for name, value in figures.values.items():
        remark = (
            f"   {value / own[name]:.1f} × SAGE's" if peer and own.get(name) else "" if peer else _goal(figures, name)
        )
        print(f"  {name:<46} {value:>14,.3f}{remark}")


def _is_own(subject: str) -> bool:
    return subject == "keyword leg" or subject.startswith("SAGE")


def _goal(figures: Figures, name: str) -> str:
    value = figures.values[name]
    most = _AT_MOST.get(figures.size, {}).get(name, _ALWAYS_AT_MOST.get(name))
    if most is not None:
        return f"   goal ≤ {most:g} {_mark(value <= most)}"
    least = _ALWAYS_AT_LEAST.get(name)
    if figures.subject.endswith("2 workers"):
        least = _OF_TWO_WORKERS_AT_LEAST.get(name)
    return "" if least is None else f"   goal ≥ {least:g} {_mark(value >= least)}"


def _mark(reached: bool) -> str:
    return "reached" if reached else "MISSED"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="folders of judged queries (BEIR's layout)")
    parser.add_argument(
        "--size", type=int, nargs="*", default=[10_000, 100_000], help="made documents, such as 1000000"
    )
    parser.add_argument("--queries", type=int, default=None, help="of each; default: all judged, 300 made")
    parser.add_argument("--seconds", type=float, default=5.0, help="of durable batches, and of each load over HTTP")
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 8], help="of durable batches, at once")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8], help="over HTTP, at once")
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[1, 2], help="processes that answer them; none: no HTTP"
    )
    parser.add_argument("--peers-up-to", type=int, default=100_000, help="documents; 0: without other engines")
    parser.add_argument("--directory", type=Path, default=None, help="where the made collections are put for a while")
    parser.add_argument("--json", action="store_true", help="the figures for a program")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
