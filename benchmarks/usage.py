"""Whether the usage ledger slows down as it grows: what a settled call costs, and what questions take, with few calls
in it and with a million, as ratios. On SQLite, without a gateway.

    python benchmarks/usage.py --calls 1000000
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sage.middleware.providers.base import Usage
from sage.middleware.settings.usage import PriceSettings
from sage.middleware.usage.database import UsageDatabase
from sage.middleware.usage.entries import Identities, LedgerEntry
from sage.middleware.usage.ledger import Ledger
from sage.middleware.usage.periods import UsagePeriod
from sage.middleware.usage.price_list import PriceList
from sage.middleware.usage.reader import UsageFilter, UsageReader
from sage.middleware.usage.records import CallSeries, UsageRecord
from sage.middleware.usage.store import UsageStore

_DAYS = 30
_USERS, _KEYS, _MODELS, _TENANTS = 200, 400, 12, 20
_BATCH = 1000
_REPEATS = 15


def record(chance: random.Random, at: float) -> UsageRecord:
    """A call of a busy gateway; few of its users ask for most of it."""
    user = min(int(chance.expovariate(6 / _USERS)), _USERS - 1)
    key, model = user * 2 + chance.randrange(2), chance.randrange(_MODELS)
    status = 200 if chance.random() < 0.99 else chance.choice((429, 499, 502))
    series = CallSeries(
        f"team-{user % _TENANTS}",
        f"user-{user}",
        f"key{key:09d}",
        f"model-{model}",
        f"provider-{model % 4}",
        f"provider-{model % 4}/upstream-{model}",
        f"upstream-{model}",
        "chat/completions",
        stream=chance.random() < 0.5,
        tags=(f"project-{user % 30}",) if user % 3 == 0 else (),
    )
    return UsageRecord(
        at,
        f"{chance.getrandbits(48):012x}-{chance.getrandbits(24):x}",
        series,
        attempts=1,
        status=status,
        prompt_tokens=chance.randrange(4000),
        cached_tokens=0,
        completion_tokens=chance.randrange(800),
        reasoning_tokens=0,
        estimated=False,
        cost=chance.randrange(10**6),
        ms=chance.random() * 1000,
        first_token_ms=100.0,
    )


def fill(store: UsageStore, calls: int, begin: float, end: float) -> None:
    """Adds calls over the time from ``begin`` to ``end``, in the order of time."""
    chance, identities = random.Random(calls), Identities()
    for first in range(0, calls, _BATCH):
        batch = []
        for number in range(first, min(first + _BATCH, calls)):
            at = begin + (end - begin) * number / calls
            batch.append(LedgerEntry(identities.next(at), record(chance, at)))
        store.write(batch)


def least(work: Callable[[], Any], repeats: int = _REPEATS) -> float:
    """The shortest time of several, in milliseconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times) * 1000


def questions(reader: UsageReader, now: float) -> dict[str, Callable[[], Any]]:
    month, day = UsagePeriod(now - _DAYS * 86400, now, UTC), UsagePeriod(now - 86400, now, UTC)
    everyone = UsageFilter()
    return {
        "GET /usage?by=model, a day": lambda: reader.sums("model", day, everyone),
        "GET /usage?by=day, a month, one user": lambda: reader.sums("day", month, UsageFilter(user="user-3")),
        "GET /usage?by=day, a month, all": lambda: reader.sums("day", month, everyone),
        "GET /usage?by=key, a month, all": lambda: reader.sums("key", month, everyone),
        "GET /usage/requests, the first page": lambda: reader.page(month, everyone, None, 50),
        "GET /usage/requests of a rare user": lambda: reader.page(month, UsageFilter(user="user-150"), None, 50),
        "GET /usage/requests that failed": lambda: reader.page(month, UsageFilter(statuses=(500, 599)), None, 50),
        "GET /usage/requests of a tag": lambda: reader.page(month, UsageFilter(tag="project-3"), None, 50),
    }


def write_batch(store: UsageStore, now: float) -> Callable[[], None]:
    chance, identities = random.Random(7), Identities()

    def write() -> None:
        store.write([LedgerEntry(identities.next(now), record(chance, now)) for _ in range(_BATCH)])

    return write


def settle(calls: int = 20_000) -> tuple[float, float]:
    """Microseconds that a call costs its request (to append it), and the settling thread (tokens and cost)."""
    prices = PriceList({"m": PriceSettings(input=1, cached=1, output=2)})  # type: ignore[arg-type]
    provider = SimpleNamespace(name="up", kind="openai", endpoints=())
    deployment = SimpleNamespace(name="up/m", model="m", price=None, provider=provider)
    caller = SimpleNamespace(tenant="team", user="user", subjects=("key:abc", "user:user"), tags=())
    usage = Usage(100, 20, {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120})
    ledger = Ledger(lambda: SimpleNamespace(), prices)  # type: ignore[arg-type, return-value]
    add = ledger.add

    facts = caller, b"id-1", "m", "chat/completions", False, deployment, 1, 200, usage, None, None

    def append() -> None:
        for number in range(calls):
            add((1.0 + number, 0.5 + number, None, *facts))

    appended = least(append, 3) / calls * 1000
    began = time.thread_time()
    ledger._settle()
    return appended, (time.thread_time() - began) / (3 * calls) * 1e6


def store_busy_key(batches: int = 30) -> float:
    """Microseconds of the storing thread a call where one key asks one model, in batches of a thousand."""
    chance, identities, spent = random.Random(7), Identities(), []
    with tempfile.TemporaryDirectory() as folder:
        database = UsageDatabase(Path(folder))
        store, first = UsageStore(database.open()), record(chance, time.time())
        for number in range(batches):
            at = first.time + number / 4
            batch = [LedgerEntry(identities.next(at), first._replace(time=at)) for _ in range(_BATCH)]
            began = time.thread_time()
            store.write(batch)
            spent.append(time.thread_time() - began)
        database.close()
    return statistics.median(spent) / _BATCH * 1e6


def measure(calls: int, directory: Path) -> dict[str, float]:
    """Milliseconds of each question, and of a batch of a thousand calls, in a ledger of ``calls`` over a month."""
    database, now = UsageDatabase(directory), time.time()
    try:
        store, reader = UsageStore(database.open()), UsageReader(database.open)
        fill(store, calls, now - _DAYS * 86400, now - 60)
        times = {name: least(question) for name, question in questions(reader, now).items()}
        times["a thousand calls written"] = least(write_batch(store, now))
    finally:
        database.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000, help="in the larger ledger (1000000)")
    parser.add_argument("--few", type=int, default=10_000, help="in the smaller one (10000)")
    options = parser.parse_args()
    appended, settled = settle()
    print(f"a call: {appended:.2f} µs of its request to be appended, {settled:.1f} µs of the settling thread,")
    print(f"        {store_busy_key():.1f} µs of the storing thread where one key asks one model")
    with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as many:
        small, large = measure(options.few, Path(few)), measure(options.calls, Path(many))
    print(f"{'':42} {options.few:>10,} {options.calls:>10,}   ratio")
    for name, before in small.items():
        print(f"{name:42} {before:7.2f} ms {large[name]:7.2f} ms {large[name] / before:7.1f}")
    assert threading.active_count() == 1


if __name__ == "__main__":
    main()
