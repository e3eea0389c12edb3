"""How the failure of a serving engine is noticed, and when one that keeps dying may start again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sage.middleware.engines.proc_stats import processor_seconds
from sage.middleware.providers.base import RunningEngine


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How long an engine that keeps dying is not started again, in seconds."""

    first: float = 1.0
    factor: float = 2.0
    longest: float = 60.0
    stable: float = 60.0
    """The death of an engine that served for so long starts the count again."""
    restart: float = 1.0
    """The least pause before it is started again without a request; a request may start it earlier."""

    def crash_count(self, before: int, served: float) -> int:
        """The number of deaths in a row, after one that followed ``served`` seconds of serving."""
        return 1 if served >= self.stable else before + 1

    def pause(self, crashes: int) -> float:
        """Seconds between a death and the next start; 0 after the first death."""
        if crashes <= 1:
            return 0.0
        return min(self.longest, self.first * self.factor ** min(crashes - 2, 64))


class CrashHistory:
    """How often an engine died in a row, and for how long it may not start now."""

    def __init__(self, policy: RestartPolicy, clock: Callable[[], float]) -> None:
        self.count = 0
        self._policy = policy
        self._clock = clock
        self._not_before = 0.0

    def record(self, served: float) -> float:
        """One more death, after ``served`` seconds of serving; returns the seconds until it is started again."""
        self.count = self._policy.crash_count(self.count, served)
        pause = self._policy.pause(self.count)
        self._not_before = self._clock() + pause
        return max(pause, self._policy.restart)

    def seconds_left(self) -> float:
        """Seconds for which it may not start; 0 or less means that it may."""
        return self._not_before - self._clock()

    def reset(self) -> None:
        self.count, self._not_before = 0, 0.0


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How a serving engine is watched, in seconds."""

    interval: float = 10.0
    limit: float = 5.0
    """How long one answer may take."""
    failures: int = 3
    """Bad answers in a row after which the engine is given up."""


async def wait_for_failure(engine: RunningEngine, policy: HealthPolicy, count_answers: Callable[[], int]) -> str:
    """Returns what is wrong with ``engine`` once something is.

    ``count_answers`` tells how many requests it has answered. An engine that does not answer its health check while it
    still answers requests and uses the processor is only busy: llama.cpp has few threads, and every request that waits
    takes one.
    """
    bad = 0
    answers, used = count_answers(), 0.0
    while True:
        await asyncio.sleep(policy.interval)
        status = await engine.health(policy.limit)
        if status == 200:
            bad = 0
            continue
        if bad == 0:
            answers, used = count_answers(), await _processor_use(engine)
        bad += 1
        if bad < policy.failures:
            continue
        if status:
            return f"answered its health check with {status}"
        idle = await _processor_use(engine) - used < 0.01 * policy.interval * policy.failures
        if idle or count_answers() == answers:
            return "does not answer its health check"
        bad = 0


async def _processor_use(engine: RunningEngine) -> float:
    pids = engine.pids
    return await asyncio.to_thread(processor_seconds, pids) if pids else 0.0
