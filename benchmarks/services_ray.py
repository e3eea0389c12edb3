"""Calls of services through Ray, beside the calls of a bare named actor that does the same; used by `services.py`."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from sage.api.ray_environment import RayEnvironment

_BATCH = 500
_MEMORY = 80 * 2**20


class Table:
    """The least that a service can do."""

    def get(self, key: int) -> int:
        return key * 3


def rows(rounds: int, count: int) -> list[dict[str, Any]]:
    """For each way of calling: its rate, that of the bare actor, and the median of their ratios in the same round."""
    with tempfile.TemporaryDirectory(prefix="ray") as directory:
        ray_config = {"num_cpus": 2, "object_store_memory": _MEMORY, "temp_dir": directory}
        env = RayEnvironment("benchmark", {"discovery": None, "ray": ray_config})
        env.register_service("table", Table)
        with env:
            return _measured(env, rounds, max(count // _BATCH, 1) * _BATCH)


def _measured(env: RayEnvironment, rounds: int, count: int) -> list[dict[str, Any]]:
    import ray

    bare = ray.remote(Table).options(name="bare", num_cpus=0).remote()
    ours, soon = env.call_service["table"], env.call_service_async["table"]
    pairs: list[tuple[str, Callable[[int], int], str, Callable[[int], int], int]] = [
        ("Ray: synchronous calls", ours.get, "a bare actor, one by one", lambda key: ray.get(bare.get.remote(key)), 1),
        (
            f"Ray: asynchronous calls, {_BATCH} at a time",
            lambda keys: [call.result() for call in [soon.get(key) for key in keys]],
            f"a bare actor, {_BATCH} at a time",
            lambda keys: ray.get([bare.get.remote(key) for key in keys]),
            _BATCH,
        ),
        (
            f"Ray: batch calls of {_BATCH} (map)",
            ours.get.map,
            f"a bare actor, {_BATCH} at a time",
            lambda keys: ray.get([bare.get.remote(key) for key in keys]),
            _BATCH,
        ),
    ]  # type: ignore[assignment]
    return [_row(*pair, rounds, count) for pair in pairs]


def _row(
    name: str, ours: Callable[[Any], Any], beside: str, bare: Callable[[Any], Any], size: int, rounds: int, count: int
) -> dict[str, Any]:
    _rate(ours, size, count // 4)  # both are warm
    _rate(bare, size, count // 4)
    pairs = [(_rate(ours, size, count), _rate(bare, size, count)) for _ in range(rounds)]
    return {
        "name": name,
        "rate": statistics.median(our_rate for our_rate, _ in pairs),
        "beside": beside,
        "bare": statistics.median(bare_rate for _, bare_rate in pairs),
        "ratio": statistics.median(our_rate / bare_rate for our_rate, bare_rate in pairs),
        "goal": 0.9,
    }


def _rate(call: Callable[[Any], Any], size: int, count: int) -> float:
    """Calls a second; every result is checked."""
    begun = time.perf_counter()
    for first in range(0, count, size):
        keys = range(first, first + size)
        right = call(first) == first * 3 if size == 1 else call(keys) == [key * 3 for key in keys]
        if not right:
            sys.exit("WRONG: a call through Ray")
    return count / (time.perf_counter() - begun)
