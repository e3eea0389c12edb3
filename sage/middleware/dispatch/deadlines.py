"""When the time of running calls is over: one timer for all of them, since one for each costs every request."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Protocol, TypeVar

from sage.middleware.providers.base import ModelCall

Kind = TypeVar("Kind")
_PAUSE = 0.01
"""Seconds at least between two looks at all calls."""


class WatchedCall(Protocol):
    """A call that somebody can cancel."""

    call: ModelCall

    def expire(self) -> None:
        """Cancels it; ``call.timed_out`` is set."""
        ...


class Deadlines:
    """The watched calls of one event loop."""

    def __init__(self) -> None:
        self._watched: set[WatchedCall] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf
        """When all calls are looked at."""

    def add(self, watched: WatchedCall, loop: asyncio.AbstractEventLoop) -> None:
        """From now on ``watched`` expires at its call's deadline, which may change (see :meth:`expect`)."""
        if loop is not self._loop:
            self._loop, self._timer, self._next = loop, None, math.inf
        self._watched.add(watched)

    def discard(self, watched: WatchedCall) -> None:
        """It is over."""
        self._watched.discard(watched)

    def watched(self, kind: type[Kind]) -> list[Kind]:
        """The calls of that kind that are under way."""
        return [each for each in self._watched if isinstance(each, kind)]

    def expect(self, deadline: float) -> None:
        """A call has got this deadline (``time.monotonic``)."""
        if deadline < self._next and self._watched:
            self._look_at(deadline)

    def _look_at(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._next = moment
        if moment < math.inf:
            assert self._loop is not None
            self._timer = self._loop.call_later(max(_PAUSE, moment - time.monotonic()), self._look)

    def _look(self) -> None:
        now, following = time.monotonic(), math.inf
        for watched in list(self._watched):
            call = watched.call
            if call.timed_out:
                continue
            if call.deadline <= now:
                call.timed_out = True
                watched.expire()
            else:
                following = min(following, call.deadline)
        self._look_at(following)
