"""Files fetched from a hub: checked, resumed, one program at a time in a directory, never more than the disk holds.

What has been fetched stays in a file with the suffix ``.part``, and the next download of the same content goes on from
there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sage.errors import Conflict, SageError, Unavailable, UpstreamFailed
from sage.middleware.hub.clients import Hub, fetch
from sage.middleware.hub.sources import HubSource, RepoFile
from sage.private_files import sync_directory

Report = Callable[[str, int | None, int | None], None]
"""``(status, completed, total)``: what is being done, and of how many bytes how many are there."""

_SPARE = 256 * 2**20
"""Bytes that stay free on the disk: the gateway's data may lie there too."""
_PAUSE = 1.0
"""Seconds before a connection that broke is made again."""
_STEP = 0.2
"""Seconds between two reports of progress."""
_CHUNK = 2**20


@contextlib.contextmanager
def alone(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the directory of models, which must be there. While another program has it, this waits, or raises
    :class:`Conflict` without ``wait``."""
    with (directory / "pull.lock").open("wb") as lock:
        try:
            # The kernel releases it when the process ends.
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict("another model is being pulled; try again when that is done", code="pull_running") from None
        yield


@dataclass(slots=True)
class Download:
    """The download of files of one repository."""

    hub: Hub
    source: HubSource
    report: Report

    def check_disk(self, place: Path, files: Sequence[RepoFile], targets: Sequence[Path]) -> None:
        """Raises :class:`Unavailable` before anything is fetched that would not fit."""
        place.mkdir(parents=True, exist_ok=True)
        needed = 0
        for file, target in zip(files, targets, strict=True):
            if not target.exists() or target.stat().st_size != file.size:
                part = _part(file, target)
                needed += max(0, (file.size or 0) - (part.stat().st_size if part.exists() else 0))
        free = shutil.disk_usage(place).free
        if needed and needed + _SPARE > free:
            raise Unavailable(
                f"the model needs {needed / 2**20:.0f} MiB more, and {free / 2**20:.0f} MiB are free where the gateway "
                f"keeps its models (256 MiB stay free); make room there, or choose a smaller file",
                code="disk_full",
            )

    def get(self, file: RepoFile, target: Path) -> None:
        """Puts the file at ``target``, unless it is there already. Raises :class:`UpstreamFailed` for another content
        than the hub tells, and ``OSError`` (:func:`disk_error`)."""
        if target.exists() and target.stat().st_size == file.size and self._sha256(file, target) == file.sha256:
            self.report(f"{target.name} is here already", None, None)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _part(file, target)
        for other in target.parent.glob(f"{_glob_safe(target.name)}.*.part"):
            if other != part:
                other.unlink()  # of a content that the hub no longer has
        self._fetch(file, part)
        found = self._sha256(file, part)
        if found != file.sha256:
            part.unlink()
            raise UpstreamFailed(
                f"'{file.path}' arrived damaged: its sha256 is {found}, and the hub says {file.sha256}; it was "
                "deleted, pull it again",
                code="hub_checksum",
            )
        part.replace(target)
        sync_directory(target.parent)

    def _fetch(self, file: RepoFile, part: Path) -> None:
        """Brings ``part`` to its whole length. A connection that breaks is made again as long as each brings
        something."""
        with part.open("ab") as opened:
            if file.size is not None and opened.tell() > file.size:
                opened.seek(0)
                opened.truncate()
            self.report(f"pulling {file.path}", opened.tell(), file.size)
            while not self._fetch_rest(file, opened):
                time.sleep(_PAUSE)
            opened.flush()
            os.fsync(opened.fileno())
            self.report(f"pulling {file.path}", opened.tell(), file.size)

    def _fetch_rest(self, file: RepoFile, opened: BinaryIO) -> bool:
        """Tells whether all is there; ``False`` means that the connection broke after it had brought something."""
        have = opened.tell()
        try:
            fetch(self.hub, self.source, file, _Target(opened, file, self.report), have)
        except UpstreamFailed as exc:
            if exc.code != "hub_unreachable" or opened.tell() == have:
                raise
            return False
        except OSError as exc:
            if exc.errno is not None:
                raise
            if opened.tell() == have:  # the library found that the file's end is missing
                raise UpstreamFailed(
                    f"the hub sent only a part of '{file.path}'; pull it again to go on", code="hub_broken"
                ) from exc
            return False
        return True

    def _sha256(self, file: RepoFile, path: Path) -> str | None:
        """The checksum of the file at ``path``; ``None`` if the hub tells none to compare it with."""
        if file.sha256 is None:
            return None
        return sha256_of(path, lambda done: self.report("checking its sha256", done, file.size))


def sha256_of(path: Path, report: Callable[[int], None] | None = None) -> str:
    """The checksum of the file at ``path``; ``report`` hears now and then how many bytes were read."""
    digest, done, said = hashlib.sha256(), 0, 0.0
    with path.open("rb") as opened:
        while data := opened.read(_CHUNK):
            digest.update(data)
            done += len(data)
            if report is not None and time.monotonic() - said > _STEP:
                said = time.monotonic()
                report(done)
    return digest.hexdigest()


def disk_error(exc: OSError) -> SageError:
    """What the disk refused, as an error of ours."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Unavailable(
            "the disk of the gateway's models became full; make room there and pull again to go on", code="disk_full"
        )
    return Unavailable(f"the model's file cannot be written: {exc.strerror}", code="disk_error")


class _Target:
    """A file that reports how much of it was written, takes no more than the hub said, and leaves room on the disk."""

    def __init__(self, opened: BinaryIO, file: RepoFile, report: Report) -> None:
        self._opened = opened
        self._file = file
        self._report = report
        self._said = 0.0
        self.tell, self.seek, self.truncate = opened.tell, opened.seek, opened.truncate

    def write(self, data: bytes) -> int:
        size = self._file.size
        if size is not None and self.tell() + len(data) > size:
            raise UpstreamFailed(
                f"the hub sends more of '{self._file.path}' than the {size} bytes that it has", code="hub_broken"
            )
        written = self._opened.write(data)
        if time.monotonic() - self._said > _STEP:
            self._said = time.monotonic()
            if shutil.disk_usage(self._opened.fileno()).free < _SPARE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._report(f"pulling {self._file.path}", self.tell(), size)
        return written


def _part(file: RepoFile, target: Path) -> Path:
    content = (file.sha256 or f"size-{file.size}")[:16]
    return target.with_name(f"{target.name}.{content}.part")


def _glob_safe(name: str) -> str:
    return "".join(f"[{char}]" if char in "[]*?" else char for char in name)
