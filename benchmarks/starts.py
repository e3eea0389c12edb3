"""Rows of the server as a whole: two workers against one, memory at rest and the time to be ready."""

from __future__ import annotations

from dataclasses import dataclass

from bench import Bench, Figure, OfServers
from subjects import Subject
from wire import Ask

_CONNECTIONS = 256
"""Connections fall to workers by chance: with many, the shares are nearly equal."""


@dataclass(frozen=True)
class Workers:
    """Two workers against one, by CPU time: on a small machine, load and upstream take the processors that two need."""

    name: str = "workers"
    about: str = f"two workers against one, {_CONNECTIONS} connections: CPU time a request"
    figures: tuple[Figure, ...] = (
        Figure("worker_us", "CPU µs a request"),
        Figure("busiest_us", "of the busiest process"),
    )
    rounds: int = 9

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        count = bench.requests(2_000, subject, _CONNECTIONS)
        async with bench.loading(subject, _CONNECTIONS, Ask()) as load:
            bench.count(subject, await load.run(_CONNECTIONS))
            before = subject.server.cpu()
            bench.count(subject, await load.run(count))
            after = subject.server.cpu()
        times = {"worker_us": after.since(before), "busiest_us": after.busiest_since(before)}
        return {name: seconds / count * 1e6 for name, seconds in times.items()}

    def takes(self, subject: Subject) -> bool:
        return subject.name == "gateway"


@dataclass(frozen=True)
class Start(OfServers):
    """Seconds to be ready with bytecode cached, and memory before the first request."""

    name: str = "start"
    about: str = "start to ready, and memory before the first request"
    figures: tuple[Figure, ...] = (
        Figure("ready_s", "start to ready s", 2),
        Figure("idle_rss", "idle RSS MiB", 1),
        Figure("idle_pss", "idle PSS MiB", 1),
    )
    rounds: int = 1

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        assert subject.ready is not None
        assert subject.idle is not None
        return {"ready_s": subject.ready, "idle_rss": subject.idle[0], "idle_pss": subject.idle[1]}
