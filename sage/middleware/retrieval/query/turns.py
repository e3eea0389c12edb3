"""How many searches compute at once in this process: as many as there are processors.

A search gives the interpreter's lock up at each row that SQLite reads, hundreds of times, and takes it again each time.
With more threads than processors each of these takes waits for another thread: of eight threads on two processors,
all together answered fewer hybrid searches than one alone (109 to 124 a second, and 120; 290 changes of threads a
search), while two at a time answered 150 to 230 (25 changes). Who waits here costs nothing.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TypeVar

from sage.forks import forks
from sage.processors import available_processors

A = TypeVar("A")
R = TypeVar("R")


def turn() -> threading.Semaphore:
    """To be held while a search computes, and not while it waits for a model, nor for another turn."""
    return _turns(forks.count)


def in_turn(work: Callable[[A], R]) -> Callable[[A], R]:
    """``work``, which takes a turn whenever it is called."""

    def with_turn(argument: A) -> R:
        with turn():
            return work(argument)

    return with_turn


@functools.lru_cache(1)
def _turns(forks: int) -> threading.Semaphore:
    """One for all collections; a process that was forked has its own."""
    return threading.Semaphore(available_processors())
