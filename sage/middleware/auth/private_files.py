"""Files and directories that only their owner may read, made whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from sage.errors import ConfigError


def make_private_dir(path: Path) -> None:
    """Makes ``path`` with mode 0700 when it is missing; one that exists keeps the mode its owner gave it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"directory {path} cannot be made: {exc.strerror}; set data_dir to a place you own") from exc


def make_private(path: Path) -> None:
    """Makes an empty file of mode 0600, or takes a file that exists back from group and others.

    A file that exists is not opened: closing it again would drop every POSIX lock that this process has on it, and
    with them SQLite's, after which another process takes the database for unused and deletes its log.
    """
    try:
        if not path.exists():
            write_private(path, b"", replace=False)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be made private: {exc.strerror}") from exc


def write_private(path: Path, data: bytes, *, replace: bool) -> bool:
    """Puts ``data`` at ``path`` in one step, mode 0600, so that no reader ever sees half of it.

    With ``replace`` off, a file that is already there wins: the answer is then ``False``. Of several processes that
    try at once, exactly one gets ``True``.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                draft.replace(path)
            else:
                os.link(draft, path)
            _sync(path.parent)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        return False
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written: {exc.strerror}") from exc
    return True


def _sync(directory: Path) -> None:
    """Puts the names in ``directory`` on the disk: without that, a file that was renamed may be lost with the power."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
