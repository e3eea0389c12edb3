"""Which segments to merge, and who may: the policy as a pure function, and the lease."""

from __future__ import annotations

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
"""Rows in memory that are worth a segment when nothing else is to be done, or at the end."""
DEAD_SHARE = 0.2
"""Dead rows over which a segment is made anew without them."""
FANOUT = 8
"""Segments of like size that become one: each document is merged once for each eightfold growth of the collection."""
IDLE_RATIO = 3
"""When nothing else is to be done, a segment of up to so many times the size of what follows is merged with it."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How large a segment is, in rows."""

    size: int
    dead: int = 0


Run = tuple[int, int]
"""From the first segment to before the second, counted over the segments and then the frozen segments."""


def plan(segments: Sequence[Extent], sealed: Sequence[Extent], *, idle: bool) -> Run | None:
    """What to merge next; ``None``: nothing. ``idle``: nobody writes just now."""
    pending = sum(extent.size for extent in sealed)
    if pending >= (IDLE_FROM if idle else SEGMENT_FROM):
        return len(segments), len(segments) + len(sealed)
    if (run := _alike(segments)) is not None:
        return run
    for place, extent in enumerate(segments):
        if extent.dead > max(DEAD_SHARE * extent.size, IDLE_FROM / 4):
            return place, place + 1
    return _small_ones(segments) if idle else None


def _alike(segments: Sequence[Extent]) -> Run | None:
    levels = [_level(extent.size - extent.dead) for extent in segments]
    for highest in sorted(set(levels)):
        place = 0
        for small, run in groupby(level <= highest for level in levels):
            length = len(list(run))
            if small and length >= FANOUT:
                return place, place + length
            place += length
    return None


def _level(size: int) -> int:
    return max(0, math.floor(math.log(max(size, 1) / SEGMENT_FROM, FANOUT) + 0.1))


def _small_ones(segments: Sequence[Extent]) -> Run | None:
    for place in range(len(segments) - 1):
        if segments[place].size <= IDLE_RATIO * sum(extent.size for extent in segments[place + 1 :]):
            return place, len(segments)
    return None


class MergeLease:
    """The right to make and remove a collection's files: one holder at a time over all processes; ends with it."""

    def __init__(self, path: Path | None) -> None:
        """``None``: nobody else can have it."""
        self._path = path

    @contextmanager
    def taken(self) -> Iterator[bool]:
        """Whether it was to be had; it is let go at the end of the block."""
        if self._path is None:
            yield True
            return
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
