"""Work on the event loop that goes on when the request that began it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class DetachedTasks:
    """Tasks that belong to no request. For the event loop only."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task for ``work``. asyncio does not log its error when no caller awaits it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(see_error)
        return task

    async def finish(self, timeout: float) -> None:
        """Waits for all of them, ``timeout`` seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)


def see_error(task: asyncio.Task[Any]) -> None:
    """A done callback for tasks that perhaps no caller awaits: without it, asyncio would log their errors."""
    if not task.cancelled():
        task.exception()
