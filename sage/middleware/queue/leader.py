"""One process among those of an installation leads: it hands out jobs and puts back what workers lost."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sage.private_files import make_private


class Leader:
    """A :class:`~sage.middleware.database.backend.Seat` among the processes on one data directory: a lock on the file
    ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def is_leader(self) -> bool:
        return self._descriptor is not None

    def try_lead(self) -> bool:
        """Takes the seat if it is free; returns whether this process has it."""
        if self._descriptor is not None:
            return True
        make_private(self._path)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def resign(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
