"""A collection over shards on Ray, beside the same documents in one store: answers, searches and writes.

Every number of shards answers the same queries in each round, in turns, and each exact answer must equal that of the
one store, score for score. Exit status 1 if one does not, never because of speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")  # actors inherit them: two processors are not for 4 × 2 threads

from processes import cpu_of  # noqa: E402
from retrieval_made import Asked, Made  # noqa: E402

from sage.middleware.retrieval.embedding.registry import ModelsByName  # noqa: E402
from sage.middleware.retrieval.types.search import Search, SearchAnswer  # noqa: E402
from sage.middleware.settings.retrieval import Retrieval  # noqa: E402
from sage.service.vdb.sharded.collections import TenantCollections  # noqa: E402
from sage.service.vdb.sharded.hosting import ShardHosting  # noqa: E402

_CLIENTS = 8
_STORE_MEMORY = 80 * 2**20
_ONE_STORE = 0


def main() -> int:
    options = _options()
    counts = [_ONE_STORE, *options.shards]
    with tempfile.TemporaryDirectory(prefix="ray") as ray, tempfile.TemporaryDirectory(dir=options.directory) as data:
        hosting = ShardHosting("ray", {"num_cpus": 2, "object_store_memory": _STORE_MEMORY, "temp_dir": ray})
        collections = TenantCollections(Path(data), Retrieval(), ModelsByName(None, None), hosting)
        try:
            made = Made(options.size, None)
            opened = {count: _filled(collections, count, made) for count in counts}
            rates = {count: rate for count, (_, rate) in opened.items()}
            report = _measured({count: each for count, (each, _) in opened.items()}, made, options)
        finally:
            collections.close()
    for count in counts:
        report["subjects"][_named(count)]["documents a second"] = rates[count]
    print(json.dumps(report) if options.json else _table(report))
    for failure in report["failures"][:20]:
        print(f"WRONG: {failure}", file=sys.stderr)
    return 1 if report["failures"] else 0


def _filled(collections: TenantCollections, count: int, made: Made) -> tuple[Any, float]:
    """The collection with all documents in it, and how many it took in a second of the clock."""
    made_as = {"embedder": "none", "dimension": made.dimension}
    collection = collections.create("benchmark", f"c{count}", made_as, count)
    spent = 0.0
    for chunk in made.chunks():
        documents = [
            {"id": id, "text": text, "vector": vector, "metadata": {"bucket": bucket}}
            for id, text, vector, bucket in zip(
                chunk.ids, chunk.texts, chunk.vectors, chunk.buckets.tolist(), strict=True
            )
        ]
        begun = time.perf_counter()
        collection.add(documents)
        spent += time.perf_counter() - begun
    collection.optimize()
    return collection, made.size / spent


def _measured(opened: dict[int, Any], made: Made, options: argparse.Namespace) -> dict[str, Any]:
    searches = [_hybrid(each) for each in made.asked(options.queries)]
    failures = _differences(opened, searches)
    alone: dict[int, list[float]] = {count: [] for count in opened}
    together: dict[int, list[float]] = {count: [] for count in opened}
    cpu: dict[int, list[float]] = {count: [] for count in opened}
    for number in range(options.rounds):
        order = list(opened)
        for count in order[number % len(order) :] + order[: number % len(order)]:
            search = opened[count].search
            spent, seconds = _spent(lambda search=search: [search(each) for each in searches])
            alone[count].append(seconds / len(searches) * 1e3)
            cpu[count].append(spent / len(searches) * 1e3)
            with ThreadPoolExecutor(_CLIENTS) as pool:
                _, seconds = _spent(lambda search=search, pool=pool: list(pool.map(search, searches)))
            together[count].append(len(searches) / seconds)
    subjects = {
        _named(count): {
            "ms a search": statistics.median(alone[count]),
            "CPU ms a search": statistics.median(cpu[count]),
            f"searches a second, {_CLIENTS} clients": statistics.median(together[count]),
            "ms beside one store": _ratio(alone[count], alone[_ONE_STORE]),
            "rate beside one store": _ratio(together[count], together[_ONE_STORE]),
        }
        for count in opened
    }
    checked = len(searches) * (len(opened) - 1)
    return {"size": made.size, "subjects": subjects, "checked": checked, "failures": failures}


def _differences(opened: dict[int, Any], searches: Sequence[Search]) -> list[str]:
    """Where exact answers are not those of the one store."""
    found = []
    for search in searches:
        exact = replace(search, exact=True)
        right = _shown(opened[_ONE_STORE].search(exact))
        found += [
            f"{_named(count)}: {search.query!r} is answered otherwise than by one store"
            for count, collection in opened.items()
            if _shown(collection.search(exact)) != right
        ]
    return found


def _shown(answer: SearchAnswer) -> list[tuple[str, float]]:
    return [(result.id, round(result.score, 9)) for result in answer.results]


def _spent(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of CPU, of this process and all that it started, and of the clock."""
    before, begun = cpu_of(os.getpid()), time.perf_counter()
    work()
    seconds = time.perf_counter() - begun
    return cpu_of(os.getpid()).since(before), seconds


def _ratio(ours: Sequence[float], beside: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(ours, beside, strict=True))


def _hybrid(asked: Asked) -> Search:
    return Search(" ".join(asked.words), vector=asked.vector)


def _named(count: int) -> str:
    return "one store" if count == _ONE_STORE else f"{count} shard{'s' if count > 1 else ''}"


def _table(report: dict[str, Any]) -> str:
    lines = [f"hybrid, {report['size']:,} documents; {report['checked']} exact answers compared with one store's"]
    for name, values in report["subjects"].items():
        lines += [f"\n{name}", *(f"  {what:<32} {value:>12,.2f}" for what, value in values.items())]
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=100_000, help="made documents")
    parser.add_argument("--shards", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=None, help="where the made collections are put for a while")
    parser.add_argument("--json", action="store_true", help="the figures for a program")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
