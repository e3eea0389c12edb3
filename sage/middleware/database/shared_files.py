"""Small private files that all gateways of an installation have in common: its keys, and the models registered while it
runs.

Gateways on one ``data_dir`` share the files there. Those that share a PostgreSQL database have them in a table of it:
the database is as secret as ``data_dir`` is.
"""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from sage.errors import ConfigError
from sage.private_files import make_private_dir, write_private

Change = Callable[[bytes | None], bytes]
"""What a file is to hold, from what it holds; ``None`` means that there is none."""


class SharedFiles(ABC):
    """The files of one folder. Calls block. Raise :class:`ConfigError` for what cannot be read or written, and
    :class:`sage.errors.Unavailable` when PostgreSQL does not answer."""

    @abstractmethod
    def place(self, name: str) -> str:
        """What messages call the file."""

    @abstractmethod
    def names(self, pattern: str) -> list[str]:
        """The names that match ``pattern``, in order."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The content; ``None`` means that there is no such file."""

    @abstractmethod
    def check_private(self, name: str) -> None:
        """Raises :class:`ConfigError` for a file that others may read."""

    @abstractmethod
    def version(self, name: str) -> int:
        """Another number after each change; 0 where there is no such file."""

    @abstractmethod
    def add(self, name: str, data: bytes) -> bool:
        """Writes a new file, durably; one that is there stays. Of several processes at once, one gets ``True``."""

    @abstractmethod
    def change(self, name: str, change: Change) -> None:
        """Replaces the content by what ``change`` makes of it, while nobody else changes it."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Removes the file, if it is there."""

    def close(self) -> None:
        """Ends its connections; it can be used again."""
        return


class DirectoryFiles(SharedFiles):
    """In the directory ``path``, readable for their owner alone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def place(self, name: str) -> str:
        return str(self.path / name)

    def names(self, pattern: str) -> list[str]:
        return sorted(path.name for path in self.path.glob(pattern))

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise ConfigError(f"{self.place(name)} cannot be read: {exc.strerror}") from exc

    def check_private(self, name: str) -> None:
        try:
            mode = (self.path / name).stat().st_mode
        except OSError as exc:
            raise ConfigError(f"{self.place(name)} cannot be read: {exc.strerror}") from exc
        if mode & 0o077:
            raise ConfigError(
                f"{self.place(name)} may be read by others (mode {mode & 0o777:04o}); take it back with chmod 600"
            )

    def version(self, name: str) -> int:
        try:
            return (self.path / name).stat().st_mtime_ns
        except FileNotFoundError:
            return 0
        except OSError as exc:
            raise ConfigError(f"{self.place(name)} cannot be read: {exc.strerror}") from exc

    def add(self, name: str, data: bytes) -> bool:
        make_private_dir(self.path)
        return write_private(self.path / name, data, replace=False)

    def change(self, name: str, change: Change) -> None:
        make_private_dir(self.path)
        try:
            lock = os.open(self.path / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise ConfigError(f"{self.place(name)} cannot be written: {exc.strerror}") from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_private(self.path / name, change(self.read(name)), replace=True)
        finally:
            os.close(lock)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)
