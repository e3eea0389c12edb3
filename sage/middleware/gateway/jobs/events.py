"""Tells those who watch a job that it has changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

_LOOK_AGAIN = 1.0
"""Seconds after which a job is read again though nothing was heard: another gateway may work on it."""
_AT_MOST_EVERY = 0.25
"""Seconds between two events of one watcher."""
_KEEP_ALIVE = 15.0
"""Seconds without an event after which a comment is sent, so that nobody on the way closes the connection."""

View = dict[str, Any]


class JobEvents:
    """Wakes the watchers of jobs. Belongs to the event loop."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._is_closed = False

    def close(self) -> None:
        """Ends all that follow a job, though it has not ended."""
        self._is_closed = True
        for watchers in self._watchers.values():
            for changed in watchers:
                changed.set()

    def changed(self, job: str) -> None:
        """A job has changed."""
        for changed in self._watchers.get(job, ()):
            changed.set()

    async def follow(self, job: str, view: Callable[[], Awaitable[View]]) -> AsyncIterator[View | None]:
        """The view of a job, now and whenever it has changed, until it has ended, or the gateway ends. ``None`` means
        that nothing has happened for a while. ``view`` reads it."""
        changed = asyncio.Event()
        self._watchers[job].add(changed)
        try:
            last, quiet = None, 0.0
            while True:
                changed.clear()
                state = await view()
                if state != last:
                    last, quiet = state, 0.0
                    yield state
                elif quiet >= _KEEP_ALIVE:
                    quiet = 0.0
                    yield None
                if state["finished_at"] is not None or self._is_closed:
                    return
                await asyncio.sleep(_AT_MOST_EVERY)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_AGAIN):
                        await changed.wait()
                quiet += _AT_MOST_EVERY + _LOOK_AGAIN
        finally:
            watchers = self._watchers[job]
            watchers.discard(changed)
            if not watchers:
                del self._watchers[job]
