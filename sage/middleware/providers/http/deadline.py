"""A moment that moves with each answer and each chunk, watched by a timer that seldom moves."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

_CLOCK = 0.001
"""Seconds by which a timer may ring early: the loop's clock counts milliseconds."""


def _nothing() -> None:
    pass


class Deadline:
    """Calls ``passed`` when the moment ``at`` is over (the loop's time; infinity means that there is none).

    A timer for each request costs more than sending it. So the timer stays when the moment moves away, and when it
    rings early, it is set to what the moment is then.
    """

    __slots__ = ("_loop", "_passed", "_rings", "_timer", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None]) -> None:
        self.at = math.inf
        self._loop = loop
        self._passed = passed
        self._timer: asyncio.TimerHandle | None = None
        self._rings = math.inf

    def set(self, at: float) -> None:
        self.at = at
        if at < self._rings:
            self._start(at)

    def _start(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = at
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer, self._rings = None, math.inf
        if self._loop.time() >= self.at - _CLOCK:
            self.at = math.inf
            self._passed()
        elif self.at < math.inf:
            self._start(self.at)

    def close(self) -> None:
        """It is never passed, and can be set no more."""
        self.at, self._passed = math.inf, _nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._rings = None, math.inf
