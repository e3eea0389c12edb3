"""The bounded queue of a service's calls, from which its workers take, and before which they sleep."""

from __future__ import annotations

from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar

from sage.fair_queue import FairQueue

T = TypeVar("T")


class Full(Exception):
    """The mailbox holds as many items as it may."""


class Closed(Exception):
    """The mailbox takes no further items."""


class Mailbox(Generic[T]):
    """First in, first out; items that have an owner wait for their owner's turn. The worker that fell asleep last is
    woken first: its memory is still in the caches.

    Of the items with one ordered key, one is in the queue or with a worker; the others wait behind it and count as
    queued. They are put in order as they come in: if the workers did that, one worker could overtake another.

    Not :class:`queue.SimpleQueue`, although a call and its result took 13 to 22 µs with it and 20 to 40 µs with this: a
    worker that sleeps in its ``get`` could not be held back while another thread works in its place
    (:meth:`borrow_worker`), and it has neither a limit, nor ordered keys, nor an end. Not :class:`queue.Queue`, which
    takes three locks and wakes by a condition, at twice the cost of a round trip.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: deque[T] = deque()
        self._turns: FairQueue[T] = FairQueue()
        """Items of owners, and all that comes while one of them waits."""
        self._behind: dict[Hashable, deque[T]] = {}
        """By ordered key, what waits until the item before it has ended. A key is here while it has an item."""
        self._count_behind = 0
        self._asleep: list[LockType] = []
        """The wakeups of the workers that sleep: locks, on each of which one worker waits."""
        self._closed = False
        self._mutex = allocate_lock()

    def __len__(self) -> int:
        return len(self._items) + len(self._turns) + self._count_behind

    @property
    def has_next(self) -> bool:
        """Whether there is something to take."""
        return bool(self._items or self._turns)

    def put(self, item: T, key: Hashable = None, owner: Hashable = None) -> bool:
        """Owners take turns; ``None`` is one of them. Returns whether no further worker is needed for it: a sleeping
        one was woken, or it waits behind its key. Raises :class:`Full` or :class:`Closed`."""
        wakeup = None
        with self._mutex:
            refused = self._closed or len(self._items) + len(self._turns) + self._count_behind >= self.limit
            if not refused:
                if key is not None and not self._is_first_of(key, item):
                    return True
                if owner is None and not self._turns:
                    self._items.append(item)
                else:
                    self._turns.push(owner, item)
                wakeup = self._asleep.pop() if self._asleep else None
        if refused:
            raise Closed if self._closed else Full
        if wakeup is None:
            return False
        wakeup.release()
        return True

    def make_room(self, owner: Hashable, is_removable: Callable[[T], bool]) -> T | None:
        """As :meth:`FairQueue.make_room`, of the items that wait for their owner's turn."""
        with self._mutex:
            return self._turns.make_room(owner, is_removable)

    def _is_first_of(self, key: Hashable, item: T) -> bool:
        behind = self._behind.get(key)
        if behind is None:
            self._behind[key] = deque()
            return True
        behind.append(item)
        self._count_behind += 1
        return False

    def take(self, wakeup: LockType) -> T | None:
        """The next item; sleeps until there is one. ``None`` means closed and empty. ``wakeup`` is a lock of the worker
        alone, locked."""
        while True:
            with self._mutex:
                if self._items:
                    return self._items.popleft()
                if self._turns:
                    return self._turns.pop()
                if self._closed:
                    return None
                self._asleep.append(wakeup)
            wakeup.acquire()

    def take_next_of(self, key: Hashable, owner: Hashable = None) -> T | None:
        """The next item of an ordered key whose last one, of ``owner``, has ended; ``None`` means there is none, or it
        waits for the turn of its owner."""
        with self._mutex:
            behind = self._behind.get(key)
            if behind:
                self._count_behind -= 1
                if self._turns:
                    self._turns.push(owner, behind.popleft())
                    return None
                return behind.popleft()
            self._behind.pop(key, None)
            return None

    def borrow_worker(self) -> LockType | None:
        """Keeps a sleeping worker asleep, so that the thread that asks may work in its place; ``None`` when none sleeps
        or items wait. Give what this returns to :meth:`return_worker`."""
        with self._mutex:
            if self._items or self._turns or self._closed or not self._asleep:
                return None
            return self._asleep.pop()

    def return_worker(self, wakeup: LockType) -> None:
        with self._mutex:
            is_needed = self.has_next or self._closed
            if not is_needed:
                self._asleep.append(wakeup)
        if is_needed:
            wakeup.release()

    def remove_worker(self, wakeup: LockType, key: Hashable = None) -> None:
        """A worker dies: it is not woken again, and the next item of the ordered ``key`` that it ran is queued."""
        with self._mutex, suppress(ValueError):
            self._asleep.remove(wakeup)
        if key is not None and (item := self.take_next_of(key)) is not None:
            with self._mutex:
                self._items.appendleft(item)

    def close(self) -> None:
        """Refuses further items; those that are queued may still be taken."""
        with self._mutex:
            self._closed = True
            asleep, self._asleep = self._asleep, []
        for wakeup in asleep:
            wakeup.release()

    def clear(self) -> list[T]:
        """Removes and returns all that is queued."""
        with self._mutex:
            items = [*self._items, *self._turns.clear(), *(item for behind in self._behind.values() for item in behind)]
            self._items.clear()
            self._behind.clear()
            self._count_behind = 0
        return items
