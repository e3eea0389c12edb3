"""What goes through a pipeline: records, their keys, and tickets that tell when a record of a source is done."""

from __future__ import annotations

from _thread import LockType
from collections.abc import Callable
from typing import Any, NamedTuple


class Unkeyed:
    """The key of a record of a stream without ``keyby``."""


UNKEYED = Unkeyed()


class Ticket:
    """Counts the records of a pipeline that stem from one record of a source and are not done yet; calls ``done`` when
    none is left. Any thread may use it."""

    __slots__ = ("_count", "_done", "_lock")

    def __init__(self, done: Callable[[], object], lock: LockType) -> None:
        self._count = 1
        self._done = done
        self._lock = lock

    def add(self, count: int) -> None:
        """Counts ``count`` more records, or fewer if it is negative."""
        with self._lock:
            self._count += count
            is_done = self._count == 0
        if is_done:
            self._done()


class StreamRecord(NamedTuple):
    """A value, the key by which it is ordered, and the ticket of the source's record that it stems from (``None`` means
    that its source does not ask when it is done)."""

    value: Any
    key: Any = UNKEYED
    ticket: Ticket | None = None


def finish(ticket: Ticket | None) -> None:
    """One record of ``ticket`` is done."""
    if ticket is not None:
        ticket.add(-1)
