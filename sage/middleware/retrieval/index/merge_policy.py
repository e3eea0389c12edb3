"""Which segments to merge next, as a pure function; and the lease, which gives one process the right to do it."""

from __future__ import annotations

import errno
import fcntl
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

SEGMENT_FROM = 8192
"""Rows in memory that become a segment."""
IDLE_FROM = 256
"""Rows in memory that are worth a segment when idle, or when the index closes."""
DEAD_SHARE = 0.2
"""The share of dead rows over which a segment is rewritten without them."""
FANOUT = 8
"""How many segments of similar size become one: a document is merged once each time the collection grows eightfold."""
IDLE_RATIO = 3
"""When idle, a segment of up to so many times the size of those that follow is merged with them."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How large a segment is, in rows."""

    size: int
    dead: int = 0


Run = tuple[int, int]
"""``(first, end)``: a slice of all segments, which are the merged ones and then the sealed ones."""


def plan(segments: Sequence[Extent], sealed: Sequence[Extent], *, idle: bool) -> Run | None:
    """What to merge next; ``None`` means nothing. ``idle`` means that there is no writing just now."""
    pending = sum(extent.size for extent in sealed)
    if pending >= (IDLE_FROM if idle else SEGMENT_FROM):
        return len(segments), len(segments) + len(sealed)
    if (run := _similar(segments)) is not None:
        return run
    for position, extent in enumerate(segments):
        if extent.dead > max(DEAD_SHARE * extent.size, IDLE_FROM / 4):
            return position, position + 1
    return _small_last(segments) if idle else None


def _similar(segments: Sequence[Extent]) -> Run | None:
    levels = [_level(extent.size - extent.dead) for extent in segments]
    for highest in sorted(set(levels)):
        position = 0
        for small, run in groupby(level <= highest for level in levels):
            length = len(list(run))
            if small and length >= FANOUT:
                return position, position + length
            position += length
    return None


def _level(size: int) -> int:
    return max(0, math.floor(math.log(max(size, 1) / SEGMENT_FROM, FANOUT) + 0.1))


def _small_last(segments: Sequence[Extent]) -> Run | None:
    for position in range(len(segments) - 1):
        if segments[position].size <= IDLE_RATIO * sum(extent.size for extent in segments[position + 1 :]):
            return position, len(segments)
    return None


_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


class MergeLease:
    """The right to write and remove a collection's index files. One holder at a time over all processes; a process
    that ends loses it."""

    def __init__(self, path: Path | None) -> None:
        """``None`` means a collection in memory, whose lease is always free."""
        self._path = path
        self.is_read_only = False
        """Whether nobody can have it, since its file could not be written at the last attempt."""

    @contextmanager
    def attempt(self) -> Iterator[bool]:
        """Whether the lease was free; it is held until the end of the block then. Does not wait."""
        if self._path is None:
            yield True
            return
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            if exc.errno not in _NOT_WRITABLE:
                raise
            self.is_read_only = True
            yield False
            return
        self.is_read_only = False
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)
        finally:
            os.close(handle)
