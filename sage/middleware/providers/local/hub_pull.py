"""The child program that pulls one model from a hub: chooses its file, fetches it, checks it, and puts it in its place.

``python -m sage.middleware.providers.local.hub_pull`` reads its options (:class:`PullTask`) as JSON from the
environment variable ``SAGE_PULL_OPTIONS``. It prints JSON lines on stdout: ``{"chosen": …}`` once, then
``{"status", "completed", "total"}`` for each step, and last ``{"done": …}`` or ``{"error": {…}}``. It ends when its
stdin ends, so that no pull outlives who asked for it.

What has been fetched stays in a file with the suffix ``.part``, and the next pull of the same content goes on from
there. One pull at a time runs in a directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import resource
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sage.errors import Conflict, SageError, Unavailable, UpstreamFailed
from sage.middleware.providers.local.gguf import read_gguf
from sage.middleware.providers.local.hub import Hub, fetch, open_hub
from sage.middleware.providers.local.hub_choice import (
    Choice,
    HubSource,
    RepoFile,
    choose,
    default_name,
    parse_source,
    quantisation,
)

_SPARE = 256 * 2**20
"""Bytes that stay free on the disk: the gateway's data may lie there too."""
_MEMORY = 2**30
"""Bytes of data that this program may have."""
_PAUSE = 1.0
"""Seconds before a connection that broke is made again."""
_STEP = 0.2
"""Seconds between two reports of progress."""
_CHUNK = 2**20


@dataclass(frozen=True)
class PullTask:
    """What the gateway hands to this program."""

    source: str
    directory: str
    """Where the files of models lie; each hub and repository has a directory in it."""


def main() -> int:
    """The exit status: 0 if the model is in its place."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    _limit_memory()
    try:
        options = PullTask(**json.loads(os.environ["SAGE_PULL_OPTIONS"]))
        source, directory = parse_source(options.source), Path(options.directory)
        directory.mkdir(parents=True, exist_ok=True)
        with _alone(directory):
            _say(done=_pull(source, directory))
    except MemoryError:
        _say(error={"kind": "UpstreamFailed", "message": "the hub's list of files is too large", "code": "hub_failed"})
    except SageError as exc:
        _say(error={"kind": type(exc).__name__, "message": exc.message, "code": exc.code, "param": exc.param})
    except OSError as exc:
        error = _disk_error(exc)
        _say(error={"kind": type(error).__name__, "message": error.message, "code": error.code, "param": None})
    else:
        return 0
    return 1


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def _limit_memory() -> None:
    """What a hub sends must not take the machine's memory. The files do not pass through it."""
    if sys.platform == "linux":  # elsewhere this limit does not count what is allocated
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        limit = _MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _say(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _step(status: str, completed: int | None = None, total: int | None = None) -> None:
    _say(status=status, completed=completed, total=total)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    with (directory / "pull.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases it when the process ends
        except BlockingIOError:
            raise Conflict("another model is being pulled; try again when that is done", code="pull_running") from None
        yield


def _pull(source: HubSource, directory: Path) -> dict[str, Any]:
    hub = open_hub(source.hub)
    choice = choose(source, hub.files(source))
    files = [hub.complete(source, file) for file in choice.files]
    place = directory / source.hub / source.repo
    targets = [place / file.path for file in files]
    _say(chosen={"name": default_name(source, choice), "path": str(targets[0].relative_to(directory))})
    _check_disk(place, files, targets)
    _step(_chosen_text(choice))
    for file, target in zip(files, targets, strict=True):
        _get(hub, source, file, target)
    head = read_gguf(targets[0])
    if head is None:
        for target in targets:
            target.unlink()
        raise UpstreamFailed(f"{source}: '{files[0].path}' is not a GGUF file", code="hub_not_gguf")
    return {
        "paths": [str(target.relative_to(directory)) for target in targets],
        "sha256": [file.sha256 for file in files],
        "predicts": head.predicts,
        "chats": bool(head.template),
    }


def _chosen_text(choice: Choice) -> str:
    if not choice.others:
        return f"{choice.name}"
    kinds = ", ".join(sorted({quantisation(other) or other for other in choice.others})[:12])
    return f"{choice.name} (others: {kinds})"


def _check_disk(place: Path, files: list[RepoFile], targets: list[Path]) -> None:
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


def _get(hub: Hub, source: HubSource, file: RepoFile, target: Path) -> None:
    """Puts the file at ``target``, unless it is there already."""
    if target.exists() and target.stat().st_size == file.size and _sha256(file, target) == file.sha256:
        _step(f"{target.name} is here already")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part(file, target)
    for other in target.parent.glob(f"{_glob_safe(target.name)}.*.part"):
        if other != part:
            other.unlink()  # of a content that the hub no longer has
    _fetch(hub, source, file, part)
    found = _sha256(file, part)
    if found != file.sha256:
        part.unlink()
        raise UpstreamFailed(
            f"'{file.path}' arrived damaged: its sha256 is {found}, and the hub says {file.sha256}; it was deleted, "
            "pull it again",
            code="hub_checksum",
        )
    part.replace(target)
    _sync(target.parent)


def _fetch(hub: Hub, source: HubSource, file: RepoFile, part: Path) -> None:
    """Brings ``part`` to its whole length. A connection that breaks is made again as long as each brings something."""
    with part.open("ab") as opened:
        if file.size is not None and opened.tell() > file.size:
            opened.seek(0)
            opened.truncate()
        _step(f"pulling {file.path}", opened.tell(), file.size)
        while not _fetch_rest(hub, source, file, opened):
            time.sleep(_PAUSE)
        opened.flush()
        os.fsync(opened.fileno())
        _step(f"pulling {file.path}", opened.tell(), file.size)


def _fetch_rest(hub: Hub, source: HubSource, file: RepoFile, opened: BinaryIO) -> bool:
    """Tells whether all is there; ``False`` means that the connection broke after it had brought something."""
    have = opened.tell()
    try:
        fetch(hub, source, file, _Target(opened, file), have)
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


def _part(file: RepoFile, target: Path) -> Path:
    content = (file.sha256 or f"size-{file.size}")[:16]
    return target.with_name(f"{target.name}.{content}.part")


def _sha256(file: RepoFile, path: Path) -> str | None:
    """The checksum of the file at ``path``; ``None`` if the hub tells none to compare it with."""
    if file.sha256 is None:
        return None
    digest, done, said = hashlib.sha256(), 0, 0.0
    with path.open("rb") as opened:
        while data := opened.read(_CHUNK):
            digest.update(data)
            done += len(data)
            if time.monotonic() - said > _STEP:
                said = time.monotonic()
                _step("checking its sha256", done, file.size)
    return digest.hexdigest()


class _Target:
    """A file that reports how much of it was written, takes no more than the hub said, and leaves room on the disk."""

    def __init__(self, opened: BinaryIO, file: RepoFile) -> None:
        self._opened = opened
        self._file = file
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
            _step(f"pulling {self._file.path}", self.tell(), size)
        return written


def _glob_safe(name: str) -> str:
    return "".join(f"[{char}]" if char in "[]*?" else char for char in name)


def _sync(directory: Path) -> None:
    """Writes the names in ``directory`` to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_error(exc: OSError) -> SageError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Unavailable(
            "the disk of the gateway's models became full; make room there and pull again to go on", code="disk_full"
        )
    return Unavailable(f"the model's file cannot be written: {exc.strerror}", code="disk_error")


if __name__ == "__main__":
    sys.exit(main())
