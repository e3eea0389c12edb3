"""Files of the gateway's machine for jobs: below configured directories, wherever links and races would lead.

A path is resolved with all its links once, when the job is submitted; it must then lie below a root. From the root on
every directory and file is opened by its own name within the one before, and no link is followed: whoever puts a link
into the way in the meantime gets an error, and nothing outside a root is ever opened.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from sage.errors import InvalidRequest, NotFound
from sage.middleware.ingest.files import printable, unselected
from sage.middleware.settings.queue import IngestSources

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LONGEST_PATH = 4096
_DEEPEST = 100
_ENTRIES_A_FILE = 20  # what is looked at for each file that a job may have


class ServerPaths:
    """Finds the files that the paths of one job name."""

    def __init__(self, settings: IngestSources, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        """``include`` and ``exclude`` are patterns for the files of directories."""
        self.directories: list[str] = []
        """What the sources of the found directories' files begin with."""
        self._settings = settings
        self._include = include
        self._exclude = exclude
        self._counts = _Counts(settings)

    def find(self, path: str) -> Iterator[dict[str, Any]]:
        """The items of one path: the file, or the files of the directory, sorted by name, as ``sage ingest`` takes
        them: without links, hidden and special ones.

        Raises :class:`InvalidRequest`; what lies outside the roots and what does not exist there look the same.
        """
        root, parts = self._place(path)
        try:
            with _opened(root, parts[:-1]) as parent:
                state = _state(parts[-1], parent) if parts else None
                if state is not None and stat.S_ISREG(state.st_mode):
                    yield self._item(root, parts, parts[-1], state.st_size, is_named=True)
                    return
            with _opened(root, parts) as directory:
                self.directories.append(f"{_source(root, parts)}/")
                yield from self._walk(root, parts, len(parts), directory)
        except FileNotFoundError:
            raise InvalidRequest(f"{path!r}: there is no such file or directory", param="paths") from None
        except OSError as exc:
            raise InvalidRequest(f"{path!r} cannot be read: {exc.strerror}", param="paths") from None

    def _place(self, path: str) -> tuple[Path, tuple[str, ...]]:
        """The root as it is configured, and the names from there to what the path leads to."""
        if not self._settings.roots:
            raise InvalidRequest(
                "jobs may read no files of the gateway's machine; the directories that they may read are listed in "
                "queue.ingest.roots",
                param="paths",
                code="no_ingest_roots",
            )
        if not path.startswith("/") or len(path) > _LONGEST_PATH or "\x00" in path:
            raise InvalidRequest(f"{path[:200]!r} is not an absolute path", param="paths")
        try:
            resolved = Path(os.path.realpath(path))
            roots = [(root, Path(os.path.realpath(root))) for root in self._settings.roots]
        except (OSError, ValueError):
            roots = []
        for root, real in sorted(roots, key=lambda pair: len(pair[1].parts), reverse=True):
            if resolved.is_relative_to(real):
                return root, resolved.relative_to(real).parts
        raise InvalidRequest(f"{path!r} is not below a directory of queue.ingest.roots", param="paths")

    def _walk(self, root: Path, parts: tuple[str, ...], above: int, directory: int) -> Iterator[dict[str, Any]]:
        """The files below the directory; ``above`` names lead to the one that the caller named."""
        if len(parts) > _DEEPEST:
            raise InvalidRequest(f"there are more than {_DEEPEST} directories inside each other", param="paths")
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in self._counts.entries(entries))
        below = []
        for name in names:
            try:
                state = _state(name, directory)
            except FileNotFoundError:  # it was there when the names were read
                continue
            if stat.S_ISDIR(state.st_mode):
                below += [] if name.startswith(".") else [name]
                continue
            relative = printable(Path(*parts[above:], name))
            is_link, is_file = stat.S_ISLNK(state.st_mode), stat.S_ISREG(state.st_mode)
            if unselected(relative, self._include, self._exclude, is_link=is_link, is_file=is_file) is None:
                yield self._item(root, (*parts, name), relative, state.st_size, is_named=False)
        for name in below:
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=directory)
            except FileNotFoundError:
                continue
            except OSError as exc:
                yield _obstacle(root, (*parts, name), f"cannot be read: {exc.strerror}")
                continue
            try:
                yield from self._walk(root, (*parts, name), above, inner)
            finally:
                os.close(inner)

    def _item(self, root: Path, parts: tuple[str, ...], relative: str, size: int, *, is_named: bool) -> dict[str, Any]:
        self._counts.add(size)
        file = "/".join(parts)
        try:
            file.encode()
        except UnicodeEncodeError:
            return _obstacle(root, parts, "its name, or that of a directory above it, is not UTF-8; rename it")
        if size > self._settings.max_file:
            reason = f"has more than {self._settings.max_file} bytes (queue.ingest.max_file)"
            return _obstacle(root, parts, reason)
        place = {"root": str(root), "file": file}
        return {"source": _source(root, parts), "path": relative, "server": place, "named": is_named}


def open_source(item: Any, settings: IngestSources) -> BinaryIO:
    """The file of an item that :meth:`ServerPaths.find` has made, if its root still is one.

    Raises :class:`NotFound` with the cause.
    """
    place = item.get("server") if isinstance(item, dict) else None
    if not isinstance(place, dict):
        raise NotFound("this source is not a file of the gateway's machine", code="source_gone")
    root = next((root for root in settings.roots if str(root) == place["root"]), None)
    if root is None:
        raise NotFound("is not below a directory of queue.ingest.roots any more", code="source_gone")
    *parents, name = place["file"].split("/")
    try:
        with _opened(root, tuple(parents)) as directory:
            if not stat.S_ISREG(_state(name, directory).st_mode):
                raise NotFound("is not a regular file any more", code="source_gone")
            file = os.fdopen(os.open(name, _FILE, dir_fd=directory), "rb")
    except OSError as exc:
        raise NotFound(f"cannot be read: {exc.strerror}", code="source_gone") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotFound("is not a regular file any more", code="source_gone")
    return file


class _Counts:
    """Counts the files and bytes of a job against their limits. Raises :class:`InvalidRequest` for one too many."""

    def __init__(self, settings: IngestSources) -> None:
        self._settings = settings
        self._files = self._bytes = self._entries = 0

    def add(self, size: int) -> None:
        self._files += 1
        self._bytes += size
        if self._files > self._settings.max_files:
            raise self._too_much(f"more than {self._settings.max_files} files (queue.ingest.max_files)")
        if self._bytes > self._settings.max_bytes:
            raise self._too_much(f"more than {self._settings.max_bytes} bytes (queue.ingest.max_bytes)")

    def entries(self, entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        for entry in entries:
            self._entries += 1
            if self._entries > self._settings.max_files * _ENTRIES_A_FILE:
                raise self._too_much("too many files that are not taken")
            yield entry

    def _too_much(self, what: str) -> InvalidRequest:
        return InvalidRequest(
            f"the paths have {what}; submit them in several jobs", param="paths", code="too_many_files"
        )


@contextlib.contextmanager
def _opened(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """The directory at ``parts`` below the root, opened step by step without following a link."""
    directory = os.open(os.path.realpath(root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in parts:
            inner = os.open(name, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner
        yield directory
    finally:
        os.close(directory)


def _state(name: str, directory: int) -> os.stat_result:
    return os.stat(name, dir_fd=directory, follow_symlinks=False)


def _source(root: Path, parts: tuple[str, ...]) -> str:
    return printable(root.joinpath(*parts))


def _obstacle(root: Path, parts: tuple[str, ...], reason: str) -> dict[str, Any]:
    """An item that will fail with that reason."""
    return {"source": _source(root, parts), "obstacle": reason}
