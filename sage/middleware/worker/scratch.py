"""Directories for the bytes that a run works on: gone with it, also with a worker that was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "sage-job-"
_LOCK = ".lock"
_NEW = 60.0  # seconds in which a directory may not be locked yet


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory of its own for the block. Those that killed workers of this user have left are removed."""
    parent = Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent, ignore_cleanup_errors=True) as directory,
        open(Path(directory, _LOCK), "wb") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Path(directory)


def _remove_abandoned(parent: Path) -> None:
    for directory in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            state = directory.lstat()
            if state.st_uid != os.getuid() or time.time() - state.st_mtime < _NEW:
                continue
            with open(directory / _LOCK, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its worker lives
                shutil.rmtree(directory)
