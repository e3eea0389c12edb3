"""How an engine that fails is noticed while it serves, and when one that keeps dying may start again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sage.middleware.engines.proc_stats import processor_seconds
from sage.middleware.providers.base import RunningEngine


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How long an engine that keeps dying is left alone, in seconds."""

    first: float = 1.0
    factor: float = 2.0
    longest: float = 60.0
    stable: float = 60.0
    """An engine that served for so long has lived: its death starts the count afresh."""
    revive: float = 1.0
    """After a death it is started again by itself, in so many seconds at the soonest; a request may come first."""

    def deaths(self, before: int, lived: float) -> int:
        """The count of deaths in a row, after one that followed ``lived`` seconds of serving."""
        return 1 if lived >= self.stable else before + 1

    def pause(self, deaths: int) -> float:
        """Seconds between a death and the next start; none after the first."""
        if deaths <= 1:
            return 0.0
        return min(self.longest, self.first * self.factor ** min(deaths - 2, 64))


class CrashHistory:
    """How often an engine died in a row, and for how long it is left alone now."""

    def __init__(self, policy: RestartPolicy, clock: Callable[[], float]) -> None:
        self.count = 0
        self._policy = policy
        self._clock = clock
        self._not_before = 0.0

    def count_one(self, lived: float) -> float:
        """One more death, after ``lived`` seconds of serving; the seconds until it is started again by itself."""
        self.count = self._policy.deaths(self.count, lived)
        pause = self._policy.pause(self.count)
        self._not_before = self._clock() + pause
        return max(pause, self._policy.revive)

    def left(self) -> float:
        """Seconds for which nobody may start it; 0 or less: none."""
        return self._not_before - self._clock()

    def forget(self) -> None:
        self.count, self._not_before = 0, 0.0


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How an engine that serves is watched, in seconds."""

    interval: float = 10.0
    limit: float = 5.0
    """How long one answer may take."""
    failures: int = 3
    """Bad answers in a row after which the engine is given up."""


async def unwell(engine: RunningEngine, policy: HealthPolicy, answered: Callable[[], int]) -> str:
    """Returns what is wrong with ``engine`` once something is.

    ``answered`` counts the requests that it has ended. One that does not answer its health check while it still ends
    requests and takes processor time is only busy: llama.cpp has few threads, and every request that waits takes one.
    """
    bad = 0
    ended, taken = answered(), 0.0
    while True:
        await asyncio.sleep(policy.interval)
        status = await engine.health(policy.limit)
        if status == 200:
            bad = 0
            continue
        if bad == 0:
            ended, taken = answered(), await _taken(engine)
        bad += 1
        if bad < policy.failures:
            continue
        if status:
            return f"answered its health check with {status}"
        idle = await _taken(engine) - taken < 0.01 * policy.interval * policy.failures
        if idle or answered() == ended:
            return "does not answer its health check"
        bad = 0


async def _taken(engine: RunningEngine) -> float:
    pids = engine.pids
    return await asyncio.to_thread(processor_seconds, pids) if pids else 0.0
