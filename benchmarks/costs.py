"""Rows of CPU time of the server: for a request, with a slow upstream, a chunk of a stream, and a long prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bench import Bench, Figure, OfAll, OfServers
from subjects import Subject
from wire import Ask

CONNECTIONS = 64
STREAMS = 32
"""Fewer connections: were the server busy all the time, bursts would melt into one another unread."""


@dataclass(frozen=True)
class Requests(OfAll):
    """A chat request, as fast as 64 connections ask."""

    name: str = "request"
    about: str = f"a chat request, {CONNECTIONS} connections"
    figures: tuple[Figure, ...] = (
        Figure("request_us", "CPU µs a request"),
        Figure("per_second", "requests a second", 0),
    )
    rounds: int = 20

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        count = bench.requests(1_500, subject, CONNECTIONS)
        cpu, result = await bench.load(subject, CONNECTIONS, count, Ask())
        return {"request_us": cpu / count * 1e6, "per_second": count / result.seconds}


@dataclass(frozen=True)
class Latency(OfAll):
    """Latency at 1 and 8 connections."""

    name: str = "latency"
    about: str = "a chat request, 1 and 8 connections"
    figures: tuple[Figure, ...] = (
        Figure("p50_1", "p50 ms, 1 connection", 3),
        Figure("p99_1", "p99 ms, 1 connection", 3),
        Figure("p50_8", "p50 ms, 8 connections", 3),
        Figure("p99_8", "p99 ms, 8 connections", 3),
    )
    rounds: int = 9

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        seen = {}
        for connections in (1, 8):
            _, result = await bench.load(subject, connections, bench.requests(300 * connections, subject, 20), Ask())
            seen |= {f"p{share}_{connections}": result.quantile(share / 100) * 1e3 for share in (50, 99)}
        return seen


@dataclass(frozen=True)
class SlowUpstream(OfServers):
    """The same request when the upstream takes 100 ms: as many connections as keep the rate what it was."""

    name: str = "slow"
    about: str = "a chat request with an upstream that takes 100 ms, at about the rate of one that takes none"
    figures: tuple[Figure, ...] = (
        Figure("slow_us", "CPU µs a request, 100 ms"),
        Figure("fast_us", "CPU µs a request, 0 ms"),
        Figure("slow_by_fast", "100 ms / 0 ms", 2, is_ratio=True),
        Figure("slow_per_second", "requests a second, 100 ms", 0),
    )
    rounds: int = 9

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        count = bench.requests(1_500, subject, CONNECTIONS)
        cpu, fast = await bench.load(subject, CONNECTIONS, count, Ask())
        fast_us = cpu / count * 1e6
        # Little's law: requests on the way = rate × time; no more than what a machine's limits surely allow.
        connections = min(1_500, max(CONNECTIONS, round(count / fast.seconds * 0.1)))
        connections = bench.requests(connections, subject, CONNECTIONS)
        cpu, slow = await bench.load(subject, connections, 3 * connections, Ask(wait_ms=100))
        slow_us = cpu / (3 * connections) * 1e6
        rate = 3 * connections / slow.seconds
        return {"slow_us": slow_us, "fast_us": fast_us, "slow_by_fast": slow_us / fast_us, "slow_per_second": rate}


@dataclass(frozen=True)
class Chunks(OfAll):
    """A stream's chunk, in bursts of 8 every 5 ms."""

    name: str = "chunk"
    about: str = f"a stream's chunk: streams of 200 in bursts of 8 every 5 ms, {STREAMS} connections"
    figures: tuple[Figure, ...] = (
        Figure("chunk_us", "CPU µs a chunk", 2),
        Figure("chunk_only_us", "  without the request", 2),
    )
    rounds: int = 9
    ask: ClassVar = Ask(chunks=200)

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        streams, requests = (bench.requests(n, subject, 4) for n in (2 * STREAMS, 500))
        cpu, _ = await bench.load(subject, min(STREAMS, streams), streams, self.ask)
        alone, _ = await bench.load(subject, min(STREAMS, streams), requests, Ask())
        chunk_us = cpu / streams / self.ask.chunks * 1e6
        return {"chunk_us": chunk_us, "chunk_only_us": chunk_us - alone / requests * 1e6 / self.ask.chunks}


@dataclass(frozen=True)
class LongStreams(OfAll):
    """Streams of 10,000 chunks."""

    name: str = "long-streams"
    about: str = "streams of 10,000 chunks in bursts of 8 every 1 ms, 8 connections"
    figures: tuple[Figure, ...] = (Figure("long_chunk_us", "CPU µs a chunk", 2),)
    rounds: int = 3
    ask: ClassVar = Ask(chunks=10_000, pause_ms=1)

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        streams = bench.requests(8, subject)
        async with bench.loading(subject, streams, self.ask) as load:
            before = subject.server.cpu()
            bench.count(subject, await load.run(streams))
            cpu = subject.server.cpu().since(before)
        return {"long_chunk_us": cpu / streams / self.ask.chunks * 1e6}


@dataclass(frozen=True)
class Prompts(OfServers):
    """Long prompts."""

    name: str
    about: str
    ask: Ask
    connections: int
    count: int
    figures: tuple[Figure, ...] = (Figure("prompt_us", "CPU µs a request", 0),)
    rounds: int = 9

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        count = bench.requests(self.count, subject, self.connections)
        cpu, _ = await bench.load(subject, self.connections, count, self.ask)
        return {"prompt_us": cpu / count * 1e6}
