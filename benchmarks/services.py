"""What a call of a service costs, compared with its bare parts (threads and queues), in turns in one run.

Prints rates and their ratios. Every result is checked; exit status 1 if one was wrong, never because of speed.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from sage.api.function.base_function import BaseFunction
from sage.api.local_environment import LocalEnvironment
from sage.service import KVService, create_kv_service_factory

_KEYS = 1000
_QUIET: dict[str, Any] = {"discovery": None}


@dataclass
class Row:
    """A rate per second, and its ``ratio`` to that of ``beside`` in the same round; medians over the rounds."""

    name: str
    rate: float
    beside: str
    bare: float
    ratio: float
    goal: float


def check(right: bool, what: str) -> None:
    if not right:
        sys.exit(f"WRONG: {what}")


def a_second(work: Callable[[int], None], count: int) -> float:
    begun = time.perf_counter()
    work(count)
    return count / (time.perf_counter() - begun)


@contextmanager
def bare_worker(table: dict[int, int]) -> Iterator[Callable[[int], int]]:
    """A call as one would write it by hand: a queue to a thread, and a queue back."""
    requests: queue.Queue[int | None] = queue.Queue()
    responses: queue.Queue[int] = queue.Queue()

    def serve() -> None:
        while (key := requests.get()) is not None:
            responses.put(table[key])

    def call(key: int) -> int:
        requests.put(key)
        return responses.get()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield call
    finally:
        requests.put(None)
        thread.join()


def rows_of_calls(rounds: int, count: int) -> list[Row]:
    """Synchronous calls, calls with futures by the thousand, and batch calls, beside the ping-pong of two queues."""
    table = {key: key * 3 for key in range(_KEYS)}
    env = LocalEnvironment("benchmark", _QUIET)
    env.register_service("kv_service", Table, table)
    with env, bare_worker(table) as bare:
        kv, soon = env.call_service["kv_service"], env.call_service_async["kv_service"]

        def ping(count: int) -> None:
            for number in range(count):
                check(bare(number % _KEYS) == number % _KEYS * 3, "the bare call")

        def one_by_one(count: int) -> None:
            for number in range(count):
                check(kv.get(number % _KEYS) == number % _KEYS * 3, "a call")

        def with_futures(count: int) -> None:
            for _ in range(count // _KEYS):
                futures = [soon.get(key) for key in range(_KEYS)]
                check([future.result() for future in futures] == list(table.values()), "calls with futures")

        def in_batches(count: int) -> None:
            for _ in range(count // _KEYS):
                check(kv.get.map(range(_KEYS)) == list(table.values()), "a batch")

        return compare(
            rounds,
            ("bare queue.Queue ping-pong", ping, count),
            [
                ("synchronous calls", one_by_one, count, 0.8),
                ("asynchronous calls, 1,000 at a time", with_futures, 4 * count, 3.0),
                ("batch calls of 1,000 (map)", in_batches, 20 * count, 3.0),
            ],
        )


class Table:
    """The least that a service can do: what is measured is the call."""

    def __init__(self, table: dict[int, int]) -> None:
        self._table = table

    def get(self, key: int) -> int:
        return self._table[key]


def compare(
    rounds: int,
    bare: tuple[str, Callable[[int], None], int],
    ours: list[tuple[str, Callable[[int], None], int, float]],
) -> list[Row]:
    """Each of ``ours`` beside ``bare``, in turns."""
    rates: dict[str, list[float]] = {name: [] for name, *_ in (bare, *ours)}
    for _ in range(rounds):
        for name, work, count, *_ in (bare, *ours):
            rates[name].append(a_second(work, count))
    rows = []
    for name, _, _, goal in ours:
        pairs = zip(rates[name], rates[bare[0]], strict=True)
        ratio = statistics.median(our_rate / bare_rate for our_rate, bare_rate in pairs)
        median = statistics.median(rates[name])
        rows.append(Row(name, median, bare[0], statistics.median(rates[bare[0]]), ratio, goal))
    return rows


class Lookup(BaseFunction):
    """One call of the key-value service for each record."""

    def process(self, record: int) -> int:
        value: int = self.call_service["kv_service"].get(str(record % _KEYS))
        return value


def pipeline(count: int) -> None:
    """Three stages on three threads, the second with a call a record."""
    env = LocalEnvironment("benchmark", _QUIET)
    env.register_service("kv_service", KVService, create_kv_service_factory())
    total: list[int] = []
    with env:
        env.call_service["kv_service"].put.starmap([(str(key), key * 3) for key in range(_KEYS)])
        stream = env.from_batch(range(count)).map(lambda record: record + 1)
        stream.map(Lookup).sink(total.append)
        env.execute()
    check(total == [(number + 1) % _KEYS * 3 for number in range(count)], "the pipeline")


def bare_pipeline(count: int) -> None:
    """The same by hand: three threads, queues between them, and a queue to a fourth and back for each record."""
    first: queue.Queue[Any] = queue.Queue(1000)
    second: queue.Queue[Any] = queue.Queue(1000)
    total: list[int] = []

    def add() -> None:
        while (record := first.get()) is not None:
            second.put(record + 1)
        second.put(None)

    third: queue.Queue[Any] = queue.Queue(1000)
    table = {key: key * 3 for key in range(_KEYS)}

    def look_up() -> None:
        with bare_worker(table) as call:
            while (record := second.get()) is not None:
                third.put(call(record % _KEYS))
        third.put(None)

    def keep() -> None:
        while (record := third.get()) is not None:
            total.append(record)

    threads = [threading.Thread(target=stage) for stage in (add, look_up, keep)]
    for thread in threads:
        thread.start()
    for number in range(count):
        first.put(number)
    first.put(None)
    for thread in threads:
        thread.join()
    check(total == [(number + 1) % _KEYS * 3 for number in range(count)], "the bare pipeline")


def rows_of_pipelines(rounds: int, count: int) -> list[Row]:
    bare = ("bare three-stage pipeline, a ping-pong a record", bare_pipeline, count)
    return compare(rounds, bare, [("three-stage pipeline, a KV call a record", pipeline, count, 0.5)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a first look")
    parser.add_argument("--ray", action="store_true", help="also calls through Ray (extra 'ray')")
    parser.add_argument("--json", action="store_true", help="the figures for a program")
    options = parser.parse_args()
    rounds, count = (3, 5_000) if options.quick else (7, 50_000)
    rows = rows_of_calls(rounds, count) + rows_of_pipelines(rounds, count)
    if options.ray:
        import services_ray

        rows += [Row(**row) for row in services_ray.rows(rounds, count // 50)]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
        return 0
    for row in rows:
        print(
            f"{row.name:45} {row.rate:12,.0f}/s  {row.ratio:6.2f} × {row.beside} ({row.bare:,.0f}/s; goal {row.goal:g})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
