"""Bounded lines of records between the stages of a pipeline, which pass many at a time when there are many."""

from __future__ import annotations

from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

_NAP = 0.001
"""Seconds that a reader sleeps unwakeably for a single record, once it has emptied its line."""


class Unkeyed:
    """The key of a record of a stream without ``keyby``."""


UNKEYED = Unkeyed()


class Ticket:
    """Counts what is left to do of one record of a source; calls ``done`` when that is nothing."""

    __slots__ = ("_count", "_done", "_lock")

    def __init__(self, done: Callable[[], object], lock: LockType) -> None:
        self._count = 1
        self._done = done
        self._lock = lock

    def add(self, count: int) -> None:
        """``count`` more things stand for it now; when that leaves none, it is done."""
        with self._lock:
            self._count += count
            ended = self._count == 0
        if ended:
            self._done()


class StreamRecord(NamedTuple):
    """What goes through a pipeline: a value, the key by which it is ordered, and whom to tell that it is done."""

    value: Any
    key: Any = UNKEYED
    ticket: Ticket | None = None


def close(ticket: Ticket | None) -> None:
    if ticket is not None:
        ticket.add(-1)


class Channel:
    """First in, first out, for several writers and readers, each with a bell (a locked lock) of its own.

    A reader that has emptied it naps, so that a stream of quick records costs one change of threads for many of them;
    after a nap without any it sleeps until the first, which it gets at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.writers = 0
        self.readers = 0
        self._items: deque[StreamRecord] = deque()
        self._napping: list[LockType] = []
        self._sleeping: list[LockType] = []
        self._blocked: list[LockType] = []
        self._aborted = False
        self._mutex = allocate_lock()
        self._on_room: list[Callable[[], object]] = []

    def __len__(self) -> int:
        return len(self._items)

    def put(self, records: Sequence[StreamRecord], bell: LockType) -> bool:
        """Puts all, waiting for room as often as it needs to; false: the line was aborted and takes nothing."""
        begun = 0
        while True:
            with self._mutex:
                if self._aborted:
                    return False
                end = min(begun + self.limit - len(self._items), len(records))
                if end > begun:
                    self._items.extend(records if end - begun == len(records) else records[begun:end])
                    wake = self._wakeable(end - begun)
                    begun = end
                else:
                    wake = ()
                if more := begun < len(records):
                    self._blocked.append(bell)
            for sleeper in wake:
                sleeper.release()
            if not more:
                return True
            bell.acquire()

    def push(self, records: Sequence[StreamRecord]) -> bool:
        """As :meth:`put`, at once and beyond the limit: for those who look for room first."""
        with self._mutex:
            if self._aborted:
                return False
            self._items.extend(records)
            wake = self._wakeable(len(records))
        for sleeper in wake:
            sleeper.release()
        return True

    def _wakeable(self, new: int) -> Sequence[LockType]:
        """Those to wake for so many new records; they are no longer in a list."""
        if self._sleeping:
            wake = self._sleeping[-new:]
            del self._sleeping[-new:]
            return wake
        if self._napping and 2 * len(self._items) >= self.limit:
            wake, self._napping = self._napping, []
            return wake
        return ()

    def take(self, limit: int, bell: LockType) -> list[StreamRecord] | None:
        """Up to ``limit`` of them, at least one; ``None``: it was aborted, or is empty and nobody writes any more."""
        napped = False
        while True:
            with self._mutex:
                if self._items and not self._aborted:
                    taken, writers = self._taken(limit)
                    break
                if self._aborted or self.writers == 0:
                    return None
                (self._sleeping if napped else self._napping).append(bell)
            if napped:
                bell.acquire()
            else:
                napped = True
                self._nap(bell)
        for writer in writers:
            writer.release()
        if writers or self._on_room:
            for call in self._on_room:
                call()
        return taken

    def _taken(self, limit: int) -> tuple[list[StreamRecord], Sequence[LockType]]:
        items = self._items
        count = min(limit, max(1, len(items) // self.readers)) if self.readers > 1 else min(limit, len(items))
        if count == len(items):
            taken = list(items)
            items.clear()
        else:
            taken = list(islice(items, count))
            for _ in range(count):
                items.popleft()
        if self._blocked and 2 * len(items) <= self.limit:
            writers, self._blocked = self._blocked, []
            return taken, writers
        return taken, ()

    def _nap(self, bell: LockType) -> None:
        if bell.acquire(timeout=_NAP):
            return
        with self._mutex:
            rung = bell not in self._napping
            if not rung:
                self._napping.remove(bell)
        if rung:
            bell.acquire()  # it is about to be released

    def give_back(self, records: Sequence[StreamRecord]) -> None:
        """To the front of the line, for another reader."""
        with self._mutex:
            self._items.extendleft(reversed(records))
            wake = self._wakeable(len(records))
        for sleeper in wake:
            sleeper.release()

    def room(self) -> int:
        return self.limit - len(self._items)

    def on_room(self, call: Callable[[], object]) -> None:
        """``call()`` each time that something was taken, on the reader's thread."""
        self._on_room.append(call)

    def close(self) -> None:
        """One writer has ended."""
        with self._mutex:
            self.writers -= 1
            wake = self._everyone() if self.writers == 0 else []
        for sleeper in wake:
            sleeper.release()

    def abort(self) -> None:
        """Drops what stands in it and takes nothing more."""
        with self._mutex:
            self._aborted = True
            self._items.clear()
            wake = self._everyone()
        for sleeper in wake:
            sleeper.release()

    def _everyone(self) -> list[LockType]:
        wake = [*self._napping, *self._sleeping, *self._blocked]
        self._napping, self._sleeping, self._blocked = [], [], []
        return wake
