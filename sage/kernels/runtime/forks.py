"""How often this process was forked: threads do not survive a fork, and a service without its threads would hang."""

from __future__ import annotations

import os


class Forks:
    """``count`` in a child process differs from the ``count`` of every process above it."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> None:
        self.count += 1


forks = Forks()
"""One for the whole process, since a function that ``os`` calls after a fork cannot be removed again."""
os.register_at_fork(after_in_child=forks.add)
