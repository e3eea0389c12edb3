"""Bounded queues of records between the stages of a pipeline, which hand over many records at a time."""

from __future__ import annotations

import time
from _thread import LockType, allocate_lock
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from sage.kernels.runtime.streams.records import StreamRecord

_COALESCING = 0.001
"""Seconds that a reader of an empty channel waits for more than a single record."""


def new_wakeup() -> LockType:
    """The lock with which one thread waits at channels. It stays locked: the thread waits by acquiring it once more,
    and another thread wakes it by releasing it."""
    wakeup = allocate_lock()
    wakeup.acquire()
    return wakeup


class Channel:
    """First in, first out, for several writers and several readers, each of which is a thread with its own wakeup.

    A thread that has to wait puts its wakeup into one of three lists. Another thread that has something for it takes
    the wakeup out of the list and releases it, once. The mutex guards the records and the lists; it is never held while
    a thread waits or is woken.

    - ``_coalescing``: readers that have just found the channel empty. They wait for :data:`_COALESCING` seconds, or
      until it is half full; a single record does not wake them. So a fast stream costs one change of threads for many
      records.
    - ``_idle``: readers that found it empty even after that. The next record wakes one of them.
    - ``_blocked``: writers that found no room. They are woken when it is half empty.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Records that it holds at most, apart from those of :meth:`put_now`."""
        self.writers = 0
        """Writers that have not closed it yet; counted before the threads start."""
        self.readers = 0
        self._records: deque[StreamRecord] = deque()
        self._coalescing: list[LockType] = []
        self._idle: list[LockType] = []
        self._blocked: list[LockType] = []
        self._is_aborted = False
        self._mutex = allocate_lock()
        self._room_listeners: list[Callable[[], object]] = []

    def __len__(self) -> int:
        return len(self._records)

    def room(self) -> int:
        """Records for which there is room; below 0 when :meth:`put_now` went beyond the limit."""
        return self.limit - len(self._records)

    # Called on the threads of writers

    def put(self, records: Sequence[StreamRecord], wakeup: LockType) -> bool:
        """Puts all, and waits for room as often as needed. ``False`` means that the channel was aborted."""
        start, count = 0, len(records)
        while True:
            with self._mutex:
                if self._is_aborted:
                    return False
                end = min(start + max(self.room(), 0), count)
                readers = self._append(records[start:end])
                if end < count:
                    self._blocked.append(wakeup)
            _wake(readers)
            if end == count:
                return True
            start = end
            wakeup.acquire()

    def put_now(self, records: Sequence[StreamRecord]) -> bool:
        """Puts all without waiting, also beyond the limit: for writers that look at :meth:`room` first. ``False`` means
        that the channel was aborted."""
        with self._mutex:
            if self._is_aborted:
                return False
            readers = self._append(records)
        _wake(readers)
        return True

    def close(self) -> None:
        """One writer has ended. Readers of a channel without writers take what is left of it, and then end."""
        with self._mutex:
            self.writers -= 1
            waiting = self._all_waiting() if self.writers == 0 else ()
        _wake(waiting)

    def _append(self, records: Sequence[StreamRecord]) -> Sequence[LockType]:
        """Returns the readers to wake."""
        self._records.extend(records)
        return self._readers_for(len(records))

    def _readers_for(self, count: int) -> Sequence[LockType]:
        """The readers to wake for ``count`` new records; they are taken out of their list."""
        if count == 0:
            return ()
        if self._idle:
            readers = self._idle[-count:]
            del self._idle[-count:]
            return readers
        if self._coalescing and 2 * len(self._records) >= self.limit:
            readers, self._coalescing = self._coalescing, []
            return readers
        return ()

    # Called on the threads of readers

    def take(self, limit: int, wakeup: LockType) -> list[StreamRecord] | None:
        """Waits for records, and takes up to ``limit`` of them. ``None`` means that none will come any more: the
        channel was aborted, or is empty and has no writers."""
        has_coalesced = False
        while True:
            with self._mutex:
                if self._is_aborted or (self.writers == 0 and not self._records):
                    return None
                if self._records:
                    taken, writers = self._remove(limit), self._writers_for_room()
                    break
                (self._idle if has_coalesced else self._coalescing).append(wakeup)
            if has_coalesced:
                wakeup.acquire()
            else:
                self._wait(wakeup, _COALESCING)
                has_coalesced = True
        self._tell_of_room(writers)
        return taken

    def take_more(self, taken: list[StreamRecord], limit: int, seconds: float | None, wakeup: LockType) -> None:
        """Appends the next records to ``taken`` until there are ``limit`` of them, for ``seconds`` at most, and until
        none will come any more. ``None`` means without an end."""
        end = None if seconds is None else time.monotonic() + seconds
        while len(taken) < limit:
            left = -1.0 if end is None else end - time.monotonic()
            with self._mutex:
                has_records = bool(self._records)
                if self._is_aborted or not (has_records or self.writers):
                    return
                if has_records:
                    taken += self._remove(limit - len(taken))
                    writers = self._writers_for_room()
                elif end is not None and left <= 0:
                    return
                else:
                    self._idle.append(wakeup)
            if has_records:
                self._tell_of_room(writers)
            else:
                self._wait(wakeup, left)

    def _wait(self, wakeup: LockType, seconds: float) -> None:
        """Waits until the time is over, or until a writer has taken ``wakeup`` out of its list and released it. -1
        means without an end."""
        if wakeup.acquire(timeout=seconds):
            return
        with self._mutex:
            for waiting in (self._coalescing, self._idle):
                if wakeup in waiting:
                    waiting.remove(wakeup)
                    return
        wakeup.acquire()  # a writer took it out just now, and is about to release it

    def _tell_of_room(self, writers: Sequence[LockType]) -> None:
        _wake(writers)
        for listener in self._room_listeners:
            listener()

    def _remove(self, limit: int) -> list[StreamRecord]:
        """Up to ``limit`` records, and no more than this reader's share of them."""
        records = self._records
        share = len(records) if self.readers <= 1 else max(1, len(records) // self.readers)
        count = min(limit, share)
        if count == len(records):
            taken = list(records)
            records.clear()
            return taken
        taken = list(islice(records, count))
        for _ in range(count):
            records.popleft()
        return taken

    def _writers_for_room(self) -> Sequence[LockType]:
        """The writers to wake because there is room; they are taken out of their list."""
        if self._blocked and 2 * len(self._records) <= self.limit:
            writers, self._blocked = self._blocked, []
            return writers
        return ()

    def give_back(self, records: Sequence[StreamRecord]) -> None:
        """Puts records that this reader took back to the front, for another reader."""
        with self._mutex:
            self._records.extendleft(reversed(records))
            readers = self._readers_for(len(records))
        _wake(readers)

    # Called on any thread

    def on_room(self, listener: Callable[[], object]) -> None:
        """Calls ``listener()`` each time that something was taken, on the thread of the reader."""
        self._room_listeners.append(listener)

    def abort(self) -> None:
        """Drops all records and takes no more; nobody waits any longer."""
        with self._mutex:
            self._is_aborted = True
            self._records.clear()
            waiting = self._all_waiting()
        _wake(waiting)

    def _all_waiting(self) -> Sequence[LockType]:
        waiting = [*self._coalescing, *self._idle, *self._blocked]
        self._coalescing, self._idle, self._blocked = [], [], []
        return waiting


def _wake(wakeups: Iterable[LockType]) -> None:
    """Never under the mutex, which those that wake up need at once."""
    for wakeup in wakeups:
        wakeup.release()
