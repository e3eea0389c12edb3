"""A bounded line of calls, lanes in it whose calls keep their order, and workers that sleep before it."""

from __future__ import annotations

from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Hashable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Full(Exception):
    """The line has as many as it may."""


class Closed(Exception):
    """The line takes nothing more."""


class Mailbox(Generic[T]):
    """First in, first out. The worker that slept last is woken first: its memory is still warm.

    Of a lane, one stands in line or runs; the others wait behind it and count as standing in line. Lanes are joined
    where things come in: were it done by the workers that take them out, one could overtake another.

    Not :class:`queue.Queue`: that one takes three locks and wakes by a condition, at twice the cost of a round trip.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: deque[T] = deque()
        self._lanes: dict[Hashable, deque[T]] = {}
        self._behind = 0
        """How many wait in lanes."""
        self._idle: list[LockType] = []
        self._closed = False
        self._mutex = allocate_lock()

    def __len__(self) -> int:
        return len(self._items) + self._behind

    @property
    def ready(self) -> bool:
        """Whether there is something to take."""
        return bool(self._items)

    def put(self, item: T, lane: Hashable = None) -> bool:
        """Whether no worker must be made for it: one that slept was woken, or it waits in its lane. Raises
        :class:`Full` or :class:`Closed`."""
        bell = None
        with self._mutex:
            refused = self._closed or len(self._items) + self._behind >= self.limit
            if not refused:
                if lane is not None and not self._first_of(lane, item):
                    return True
                self._items.append(item)
                bell = self._idle.pop() if self._idle else None
        if refused:
            raise Closed if self._closed else Full
        if bell is None:
            return False
        bell.release()
        return True

    def _first_of(self, lane: Hashable, item: T) -> bool:
        waiting = self._lanes.get(lane)
        if waiting is None:
            self._lanes[lane] = deque()
            return True
        waiting.append(item)
        self._behind += 1
        return False

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

    def following(self, lane: Hashable) -> T | None:
        """The next of a lane whose last one has ended; ``None``: the lane is over."""
        with self._mutex:
            waiting = self._lanes.get(lane)
            if waiting:
                self._behind -= 1
                return waiting.popleft()
            self._lanes.pop(lane, None)
            return None

    def leave(self, bell: LockType, lane: Hashable = None) -> None:
        """A worker dies: it is not woken any more, and the next of the lane that it ran stands in line."""
        with self._mutex, suppress(ValueError):
            self._idle.remove(bell)
        if lane is not None and (item := self.following(lane)) is not None:
            with self._mutex:
                self._items.appendleft(item)

    def close(self) -> None:
        """Nothing comes in any more; what stands in line may still be taken."""
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, []
        for bell in idle:
            bell.release()

    def clear(self) -> list[T]:
        """What stood in line, lanes too."""
        with self._mutex:
            items = [*self._items, *(item for waiting in self._lanes.values() for item in waiting)]
            self._items.clear()
            self._lanes.clear()
            self._behind = 0
        return items
