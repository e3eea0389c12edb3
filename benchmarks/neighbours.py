"""Rows of small requests beside large ones: what a 5 MB image or a 1 MB prompt does to everybody else's answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bench import Bench, Figure, OfAll
from load import quantile
from subjects import Subject
from wire import Ask

_SMALL = 16
_REST = 0.02
"""Seconds between an answer and the next request: a machine that is not full, so that waiting shows."""


@dataclass(frozen=True)
class Beside(OfAll):
    """Small requests alone, then beside two connections that send large ones, each after a rest."""

    name: str
    about: str
    ask: Ask
    rest: float
    figures: tuple[Figure, ...] = (
        Figure("alone_p99", "p99 ms alone", 1),
        Figure("beside_p99", "p99 ms beside", 1),
        Figure("added_p99", "p99 ms added", 1, is_ratio=True),
        Figure("large_us", "CPU µs a large one", 0),
    )
    rounds: int = 5

    async def turn(self, bench: Bench, subject: Subject) -> dict[str, float]:
        count = bench.requests(1_000, subject, _SMALL)
        async with (
            bench.loading(subject, _SMALL, Ask(), _REST) as small,
            bench.loading(subject, 2, self.ask, self.rest) as large,
        ):
            bench.count(subject, await small.run(_SMALL))
            bench.count(subject, await large.run(2))
            before = subject.server.cpu()
            alone = await small.run(count)
            middle = subject.server.cpu()
            sending = asyncio.create_task(large.run(1_000_000))
            await asyncio.sleep(0)
            beside = await small.run(count)
            large.stop()
            sent = await sending
            cpu = subject.server.cpu().since(middle) - middle.since(before)
        for result in (alone, beside, sent):
            bench.count(subject, result)
        alone_p99, beside_p99 = (quantile(seen.latencies, 0.99) * 1e3 for seen in (alone, beside))
        return {
            "alone_p99": alone_p99,
            "beside_p99": beside_p99,
            "added_p99": beside_p99 - alone_p99,
            "large_us": cpu / max(1, sent.requests) * 1e6,
        }
