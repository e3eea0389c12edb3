"""Answers that this process computes itself: a transport whose upstream is a pool of threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from sage.errors import DeadlineExceeded
from sage.middleware.gateway.collections.bounded_pool import BoundedPool
from sage.middleware.providers.base import ModelCall, ReadInChunks, UpstreamRequest

_AT_ONCE = 32
"""Texts between two looks at whether the caller still waits."""

Compute = Callable[[Sequence[str]], tuple[list[bytes], int]]
"""What is made of each of the texts, as JSON, and how many tokens they have; for a thread."""
Finish = Callable[[Sequence[bytes], int], bytes]
"""The answer, of what was made of all texts and how many tokens they have."""


@dataclass(slots=True)
class Computation:
    """A :class:`~sage.middleware.providers.transport.Transport` for one call: computes its answer on threads."""

    compute: Compute
    finish: Finish
    texts: Sequence[str]
    call: ModelCall
    pool: BoundedPool

    async def send(self, request: UpstreamRequest) -> ComputedAnswer:
        """Raises :class:`DeadlineExceeded` when the request's time is over."""
        total = request.timeouts.total if request.total is None else request.total
        try:
            async with asyncio.timeout(total):
                return ComputedAnswer(await self._computed())
        except TimeoutError:
            raise DeadlineExceeded(
                f"model '{self.call.model}' did not compute all texts within {total:g} s; send fewer at a time",
                code="total_timeout",
            ) from None

    async def _computed(self) -> bytes:
        items: list[bytes] = []
        tokens = 0
        for start in range(0, len(self.texts), _AT_ONCE):
            work = partial(self.compute, self.texts[start : start + _AT_ONCE])
            made, counted = await self.pool.run(work, self.call.caller[0])
            items += made
            tokens += counted
        return self.finish(items, tokens)

    async def close(self) -> None:
        return None


@dataclass(slots=True)
class ComputedAnswer(ReadInChunks):
    """An :class:`~sage.middleware.providers.transport.UpstreamResponse` that is complete."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    async def read(self) -> bytes:
        return self.body

    async def chunk(self) -> bytes:
        body, self.body = self.body, b""
        return body

    def close(self) -> None:
        return None
