"""How often the process has been forked: threads do not come along, and a service without its workers hangs."""

from __future__ import annotations

import os


class Forks:
    """``count`` differs in a process from what it was in those that it was forked from."""

    def __init__(self) -> None:
        self.count = 0

    def note(self) -> None:
        self.count += 1


forks = Forks()
"""Of this process: what ``os`` calls after a fork cannot be taken back, hence one for all."""
os.register_at_fork(after_in_child=forks.note)
