"""A bounded line of calls, and workers that sleep before it."""

from __future__ import annotations

from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Full(Exception):
    """The line has as many as it may."""


class Closed(Exception):
    """The line takes nothing more."""


class Inbox(Generic[T]):
    """First in, first out. The worker that slept last is woken first: its memory is still warm.

    Not :class:`queue.Queue`: that one takes three locks and wakes by a condition, at twice the cost of a round trip.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: deque[T] = deque()
        self._idle: list[LockType] = []
        self._closed = False
        self._mutex = allocate_lock()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> bool:
        """Whether a worker that slept was woken for it. Raises :class:`Full` or :class:`Closed`."""
        with self._mutex:
            if self._closed:
                raise Closed
            if len(self._items) >= self.limit:
                raise Full
            self._items.append(item)
            bell = self._idle.pop() if self._idle else None
        if bell is None:
            return False
        bell.release()
        return True

    def take(self, bell: LockType) -> T | None:
        """The next one, when there is one; ``None``: closed and empty. ``bell`` is the worker's own, locked."""
        while True:
            with self._mutex:
                if self._items:
                    return self._items.popleft()
                if self._closed:
                    return None
                self._idle.append(bell)
            bell.acquire()

    def close(self) -> None:
        """Nothing comes in any more; what stands in line may still be taken."""
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, []
        for bell in idle:
            bell.release()

    def clear(self) -> Iterable[T]:
        """What stood in line."""
        with self._mutex:
            items, self._items = self._items, deque()
        return items
