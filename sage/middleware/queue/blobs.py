"""Contents of files on disk: one blob a file, under a random name, whole or not there.

A blob is written under a name that says it is unfinished, brought to the disk, then renamed. Nothing that a client says
is part of a path.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sage.errors import Unavailable
from sage.private_files import sync_directory

_NAME = re.compile(r"[0-9a-f]{32}")
_UNFINISHED = ".part"
_BUFFER = 2**16  # bytes
_FULL = (errno.ENOSPC, errno.EDQUOT)


class BlobWriter:
    """A blob that is being written. It is on the disk once it is sealed.

    Until :meth:`close` it is locked, which tells other processes that its row may still come.
    """

    def __init__(self, directory: Path) -> None:
        self.name = secrets.token_hex(16)
        self.size = 0
        self._final = directory / self.name
        self.path = directory / (self.name + _UNFINISHED)
        """Where it is now."""
        with _storage_errors():
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb", _BUFFER)
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends ``data``. Raises :class:`Unavailable` when the disk is full or fails."""
        with _storage_errors():
            self.size += self._file.write(data)

    def flush(self) -> None:
        """Hands everything to the system, for readers of :attr:`path`. Raises as :meth:`write`."""
        with _storage_errors():
            self._file.flush()

    def seal(self) -> None:
        """Returns once all of it is on the disk under its name. Raises as :meth:`write`."""
        with _storage_errors():
            self._file.flush()
            os.fsync(self._file.fileno())
            self.path.rename(self._final)
            self.path = self._final
            sync_directory(self.path.parent)

    def close(self, *, keep: bool) -> None:
        """The end; without ``keep`` it is removed."""
        if not keep:
            self.path.unlink(missing_ok=True)
        with suppress(OSError):  # what could not be written before
            self._file.close()


class BlobDirectory:
    """The blobs in ``directory``, which is made when it is missing."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def create(self) -> BlobWriter:
        """A new blob."""
        with _storage_errors():
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return BlobWriter(self._directory)

    def path(self, name: str) -> Path:
        """Where the blob ``name`` is."""
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no name of a blob")
        return self._directory / name

    def open(self, name: str) -> BinaryIO:
        """The blob for reading; it stays whole for the reader when it is removed. Raises ``FileNotFoundError``."""
        return open(self.path(name), "rb")

    def remove(self, name: str) -> None:
        """Removes the blob, if it is there."""
        self.path(name).unlink(missing_ok=True)

    def remove_ownerless(self, has_owner: Callable[[str], bool]) -> int:
        """Removes blobs that nobody writes and that have no owner; returns how many. Other files stay."""
        if not self._directory.is_dir():
            return 0
        found = [path for path in self._directory.iterdir() if _NAME.fullmatch(path.name.removesuffix(_UNFINISHED))]
        return sum(_remove_unlocked(path, has_owner) for path in found)


def _remove_unlocked(path: Path, has_owner: Callable[[str], bool]) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Asked only now: whoever wrote it has written its owner before the lock was free.
        is_removed = path.name.endswith(_UNFINISHED) or not has_owner(path.name)
        if is_removed:
            path.unlink(missing_ok=True)
        return is_removed
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise Unavailable(
                "the disk of the gateway is full: nothing was stored; free space, or delete files (DELETE /v1/files/…)",
                code="disk_full",
                retry_after=60.0,
            ) from exc
        raise Unavailable(f"the file cannot be stored: {exc.strerror or exc}", code="storage_failed") from exc
