"""Machine code that is kept on disk, so that the next process has it at once.

What is read back from there is unpickled, which runs whatever a file says. So it is read only where nobody else can
have written, and only when it is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import logging
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import platformdirs

from sage.errors import ConfigError
from sage.private_files import write_private

_logger = logging.getLogger(__name__)
_HEADER = b"sage machine code 1\n"
_DIGEST = hashlib.sha256
_MOST_FILES = 60
"""About 100 kB each; beyond that, those that were not used for longest go."""
_LONGEST_WAIT = 60.0
"""Seconds to wait for another process that compiles the same; after them, this one compiles too."""


def code_directory() -> Path:
    """Of this user: ``$XDG_CACHE_HOME/sage/machine-code``."""
    return Path(platformdirs.user_cache_dir("sage", appauthor=False)) / "machine-code"


class KeptCode:
    """The machine code of some functions, one file for each and each kind of processor.

    Wherever that is impossible nothing is kept, and the reason is logged: a directory that others can write to, files
    of another user, a disk that is full. Safe to use from several threads and processes.
    """

    def __init__(self, name: str, functions: Sequence[Callable[..., Any]], directory: Path | None = None) -> None:
        """``functions`` are all that are compiled; code is kept for as long as their modules are the same."""
        self._directory = directory or code_directory()
        self._has_failed = False
        self._prefix: str | None = None
        versions = (sys.implementation.cache_tag, *(_version_of(package) for package in ("numba", "llvmlite", "numpy")))
        digest = _DIGEST(repr((name, versions)).encode())
        try:
            for path in sorted({function.__code__.co_filename for function in functions}):
                digest.update(Path(path).read_bytes())
        except OSError as exc:
            _logger.info("machine code is not kept: %s cannot be read (%s)", exc.filename, exc.strerror)
        else:
            self._prefix = f"{name}-{digest.hexdigest()[:24]}"

    @property
    def is_whole(self) -> bool:
        """Whether all of it was kept once, for some kind of processor."""
        try:
            return self._prefix is not None and (self._directory / f"{self._prefix}.lock").stat().st_size > 0
        except OSError:
            return False

    def read(self, function: str, target: object) -> bytes | None:
        """What :meth:`write` was given for this function and processor. ``None`` where there is nothing, or nothing to
        be trusted."""
        path = self._path(function, target)
        if path is None or not self._is_ours():
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
                _logger.warning("%s is not used: others may have written it; delete it", path)
                return None
            try:
                kept = file.read()
                os.utime(descriptor)
            except OSError:
                return None
        content = kept[len(_HEADER) + _DIGEST().digest_size :]
        return content if kept == _sealed(content) else None

    def write(self, function: str, target: object, content: bytes) -> None:
        """Keeps ``content`` in place of what was there."""
        path = self._path(function, target)
        if path is None or not self._is_ours():
            return
        try:
            write_private(path, _sealed(content), replace=True)
            self._forget_oldest()
        except (ConfigError, OSError) as exc:
            self._has_failed = True
            _logger.info("machine code is not kept: %s", exc)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """For reading and compiling all functions: of several processes that come at once, one compiles, and the others
        find what it kept."""
        with contextlib.ExitStack() as stack:
            lock = self._open_lock()
            if lock is not None:
                stack.callback(os.close, lock)  # which gives it up
                _wait_for(lock)
            yield
            if lock is not None and not self._has_failed:
                with contextlib.suppress(OSError):
                    os.pwrite(lock, b"1", 0)

    def _open_lock(self) -> int | None:
        if self._prefix is None:
            return None
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._is_ours():
                _logger.info("machine code is not kept in %s: others can write there", self._directory)
                return None
            path = self._directory / f"{self._prefix}.lock"
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        except OSError as exc:
            _logger.info("machine code is not kept in %s: %s", self._directory, exc.strerror)
            return None

    def _is_ours(self) -> bool:
        """Whether nobody but this user, and root, can write there or put another directory in its place."""
        try:
            real = Path(os.path.realpath(self._directory, strict=True))
            own = real.stat()
            above = [parent.stat() for parent in real.parents]
        except OSError:
            return False
        if own.st_uid != os.geteuid() or own.st_mode & 0o022:
            return False
        return all(
            state.st_uid in (0, os.geteuid()) and (not state.st_mode & 0o022 or state.st_mode & stat.S_ISVTX)
            for state in above
        )

    def _path(self, function: str, target: object) -> Path | None:
        if self._prefix is None:
            return None
        return self._directory / f"{self._prefix}-{function}-{_DIGEST(repr(target).encode()).hexdigest()[:16]}"

    def _forget_oldest(self) -> None:
        entries = [entry for entry in os.scandir(self._directory) if entry.is_file(follow_symlinks=False)]
        by_use = sorted(entries, key=lambda entry: entry.stat(follow_symlinks=False).st_mtime)
        for entry in by_use[:-_MOST_FILES]:
            os.unlink(entry)


def _sealed(content: bytes) -> bytes:
    return _HEADER + _DIGEST(content).digest() + content


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _wait_for(lock: int) -> None:
    """Not with ``LOCK_EX`` alone: a process that was stopped would be waited for without end."""
    end = time.monotonic() + _LONGEST_WAIT
    while time.monotonic() < end:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.1)
        else:
            return
