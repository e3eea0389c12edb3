"""Files and directories that only their owner may read, made whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from sage.errors import ConfigError


def make_private_dir(path: Path) -> None:
    """Makes the directory with mode 0700 when it is missing; one that exists keeps its mode."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            f"directory {path} cannot be made: {exc.strerror}; set data_dir to a directory that you own"
        ) from exc


def make_private(path: Path) -> None:
    """Makes an empty file of mode 0600; takes the rights of group and others away from a file that exists.

    A file that exists is not opened: closing it again would drop all POSIX locks that this process has on it, SQLite's
    too, and another process would take the database for unused and delete its log.
    """
    try:
        if not path.exists():
            write_private(path, b"", replace=False)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be made private: {exc.strerror}") from exc


def write_private(path: Path, data: bytes, *, replace: bool, mode: int = 0o600) -> bool:
    """Writes ``data`` to a new ``path`` of that mode in one step, so that no reader sees half of it.

    Without ``replace``, an existing file stays and the result is ``False``. Of several processes that write at once,
    exactly one gets ``True``.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                draft.replace(path)
            else:
                os.link(draft, path)
            sync_directory(path.parent)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        return False
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc
    return True


def sync_directory(directory: Path) -> None:
    """Writes the names in ``directory`` to the disk; without it, a power failure can undo a rename."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
