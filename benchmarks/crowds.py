"""Rows of many streams at the same time: how soon a thousand begin, and what two thousand open ones take."""

from __future__ import annotations

import asyncio
import http.client
import time
from dataclasses import dataclass
from typing import ClassVar

from bench import Bench, Figure, OfAll, OfServers
from load import Load, quantile
from subjects import Subject
from wire import Ask


@dataclass(frozen=True)
class FirstChunks(OfAll):
    """A thousand connections that are open already ask for a stream at the same moment."""

    name: str = "first-chunks"
    about: str = "1,000 streams that start at once: from a stream's request to its first chunk"
    figures: tuple[Figure, ...] = (
        Figure("first_p50", "p50 ms", 1),
        Figure("first_p99", "p99 ms", 1),
        Figure("crowd_us", "CPU µs a stream", 0),
    )
    rounds: int = 7
    ask: ClassVar = Ask(chunks=16)

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        streams = bench.requests(1_000, subject)
        async with bench.loading(subject, streams, self.ask) as load:
            await load.connect()
            before = subject.server.cpu()
            result = await load.run(streams)
            cpu = subject.server.cpu().since(before)
        bench.count(subject, result)
        times = {f"first_p{share}": quantile(result.first_bytes, share / 100) * 1e3 for share in (50, 99)}
        return times | {"crowd_us": cpu / streams * 1e6}


@dataclass(frozen=True)
class OpenStreams(OfServers):
    """Memory while two thousand streams are open, each with its first chunks, once they have ended, and while as many
    are open again: how much more than the first time."""

    name: str = "open-streams"
    about: str = "2,000 open streams: growth of memory for each, and how much of it is given back after they end"
    figures: tuple[Figure, ...] = (
        Figure("rss_kib", "RSS KiB each", 1),
        Figure("pss_kib", "PSS KiB each", 1),
        Figure("given_back", "given back %", 0, is_ratio=True),
        Figure("again_kib", "KiB each, second time", 1, is_ratio=True),
    )
    rounds: int = 1
    ask: ClassVar = Ask(chunks=16, hold=True)
    settle: ClassVar = 6.0
    """Seconds after their end until memory is looked at: connections to upstreams that rest are closed by then."""

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        streams = bench.requests(2_000, subject)
        await self._open(bench, subject, bench.requests(50, subject))
        before = subject.server.memory()
        during = await self._open(bench, subject, streams)
        await asyncio.sleep(bench.seconds(self.settle))
        after = subject.server.memory()
        again = await self._open(bench, subject, streams)
        grown, left = during[0] - before[0], after[0] - before[0]
        return {
            "rss_kib": grown * 1024 / streams,
            "pss_kib": (during[1] - before[1]) * 1024 / streams,
            "given_back": 100 * (1 - left / grown) if grown > 0 else 100.0,
            "again_kib": (again[0] - during[0]) * 1024 / streams,
        }

    async def _open(self, bench: Bench, subject: Subject, streams: int) -> tuple[float, float]:
        """Memory of the server while that many streams are open."""
        async with bench.loading(subject, streams, self.ask) as load:
            await load.connect()
            running = asyncio.create_task(load.run(streams))
            await self._begun(load, streams, running)
            during = subject.server.memory()
            # Not every stream may be there yet when some failed: whatever comes later must not be held either.
            while not running.done():
                await asyncio.to_thread(_release, bench.upstream_port)
                await asyncio.wait([running], timeout=0.5)
            bench.count(subject, running.result())
        return during

    async def _begun(self, load: Load, streams: int, running: asyncio.Task[object]) -> None:
        deadline = time.perf_counter() + 25
        while load.begun < streams and not running.done() and time.perf_counter() < deadline:
            await asyncio.sleep(0.05)


def _release(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/release")
    connection.getresponse().read()
    connection.close()
