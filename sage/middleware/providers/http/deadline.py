"""A moment that moves with each answer and each chunk, watched by a timer that seldom moves."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from types import TracebackType

CLOCK = 0.001
"""Seconds by which a timer may ring early: the loop's clock counts milliseconds."""


_LATE = 0.1
"""A timer that rings so many seconds late has waited for the loop, and so has what came in the meantime: a loop looks
at its timers before its sockets. Such a timer rings once more after as many seconds, before an upstream is blamed."""


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
        now = self._loop.time()
        lateness = now - self._rings
        self._timer, self._rings = None, math.inf
        if now < self.at - CLOCK:
            if self.at < math.inf:
                self._start(self.at)
        elif lateness > _LATE:
            self._start(now + _LATE)
        else:
            self.at = math.inf
            self._passed()

    def close(self) -> None:
        """It is never passed, and can be set no more."""
        self.at, self._passed = math.inf, _nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._rings = None, math.inf


class TimeLimit:
    """``with TimeLimit(loop, seconds):`` as :func:`asyncio.timeout`, at a fraction of its cost. Nobody is blamed for a
    loop that was busy with other things.

    Raises :class:`TimeoutError` at the end of the block if it was not over in time.
    """

    __slots__ = ("_cancelling", "_deadline", "_task", "expired")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        task = asyncio.current_task(loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._deadline = Deadline(loop, self._expire)
        self._deadline.set(loop.time() + seconds)
        self.expired = False

    def _expire(self) -> None:
        self.expired = True
        self._task.cancel()

    def __enter__(self) -> TimeLimit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadline.close()
        # A caller may have cancelled the task, too.
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from exc
