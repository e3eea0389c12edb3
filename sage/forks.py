"""How often this process was forked: threads, locks and open databases do not survive a fork.

Of what a forked process inherits, a service without its threads would hang, and a database that is open in both
processes loses what one of them writes. So their owners compare :attr:`Forks.count` with what it was when they were
made.
"""

from __future__ import annotations

import os

from sage.errors import Unavailable


class Forks:
    """``count`` in a child process differs from the ``count`` of every process above it."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> None:
        self.count += 1


forks = Forks()
"""One for the whole process, since a function that ``os`` calls after a fork cannot be removed again."""
os.register_at_fork(after_in_child=forks.add)


def written_after_fork(what: str) -> Unavailable:
    """The error for a write to ``what``, which was opened before this process was forked."""
    return Unavailable(
        f"{what} was opened by the process that this one was forked from, and cannot be written here; open it after "
        "the fork, or start processes with the method 'spawn' (multiprocessing.set_start_method)",
        code="forked",
        retry_after=None,
    )
