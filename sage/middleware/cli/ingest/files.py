"""Which files are meant, what they are, and what they are called in a collection."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sage.errors import InvalidRequest
from sage.middleware.cli.ingest.decoding import is_binary
from sage.middleware.cli.ingest.document import FileKind

_KINDS = {
    FileKind.MARKDOWN: (".md", ".markdown", ".mdown", ".mkd", ".mdx"),
    FileKind.HTML: (".html", ".htm", ".xhtml"),
    FileKind.PDF: (".pdf",),
    FileKind.JSONL: (".jsonl", ".ndjson", ".jsonlines"),
}
_KIND_OF = {ending: kind for kind, endings in _KINDS.items() for ending in endings}
_HEAD = 8192  # bytes that say what a file is


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file to take in. ``source`` is its lasting name in the collection, ``relative`` its path under the directory
    that was given; ``shown``: what messages call it."""

    path: Path
    source: str
    relative: str
    kind: FileKind
    size: int
    shown: str


@dataclass
class Walk:
    """Files of the arguments, and how many were passed over, by reason."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    called: str | None = None
    kind: FileKind | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, str]] = field(default_factory=list)
    roots: dict[str, Path] = field(default_factory=dict)
    """Directories by how the sources of their files begin."""

    def find(self, arguments: Sequence[Path]) -> list[FileEntry]:
        """Every file once, those of a directory in the order of their names.

        Raises :class:`InvalidRequest` for an argument that is not there.
        """
        found: dict[str, FileEntry] = {}
        for argument in arguments:
            if not argument.exists():
                raise InvalidRequest(f"{argument}: there is no such file or directory")
            for file in self._directory(argument) if argument.is_dir() else self._named(argument):
                found.setdefault(file.source, file)
        return list(found.values())

    def _named(self, path: Path) -> Iterator[FileEntry]:
        if not path.is_file():
            self.failed.append((str(path), "is no regular file; pipe it in: sage ingest COLLECTION -"))
            return
        source = self.called if self.called is not None else printable(path.resolve())
        file = self._look(path, source, path.name, named=True)
        if file is not None:
            yield file

    def _directory(self, root: Path) -> Iterator[FileEntry]:
        base = self.called if self.called is not None else printable(root.resolve()).rstrip("/")
        self.roots[f"{base}/"] = root

        def missed(error: OSError) -> None:
            self.failed.append((printable(Path(error.filename)), f"cannot be read: {error.strerror}"))

        for directory, names, files in os.walk(root, onerror=missed):
            self._passed_over(Path(directory), names)
            for name in sorted(files):
                path = Path(directory, name)
                relative = printable(path.relative_to(root))
                if self._wanted(path, relative):
                    file = self._look(path, f"{base}/{relative}", relative, named=False)
                    if file is not None:
                        yield file

    def _passed_over(self, directory: Path, names: list[str]) -> None:
        """Leaves hidden directories and links out of what :func:`os.walk` enters."""
        kept = []
        for name in sorted(names):
            if name.startswith("."):
                self.skipped["hidden"] += 1
            elif (directory / name).is_symlink():
                self.skipped["link"] += 1
            else:
                kept.append(name)
        names[:] = kept

    def _wanted(self, path: Path, relative: str) -> bool:
        reason = None
        if path.name.startswith("."):
            reason = "hidden"
        elif path.is_symlink():
            reason = "link"
        elif not path.is_file():
            reason = "special"
        elif self.include and not _matches(relative, self.include):
            reason = "not included"
        elif _matches(relative, self.exclude):
            reason = "excluded"
        if reason is not None:
            self.skipped[reason] += 1
        return reason is None

    def _look(self, path: Path, source: str, relative: str, *, named: bool) -> FileEntry | None:
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
                size = os.fstat(file.fileno()).st_size
        except OSError as exc:
            self.failed.append((printable(path), f"cannot be read: {exc.strerror}"))
            return None
        kind = self.kind or kind_of(path.name, head)
        if kind is None:
            if named:
                self.failed.append((printable(path), "is neither text nor PDF"))
            else:
                self.skipped["binary"] += 1
            return None
        return FileEntry(path, source, relative, kind, size, printable(path))


def kind_of(name: str, head: bytes) -> FileKind | None:
    """By its ending, and by how it begins; ``None``: it is binary."""
    kind = _KIND_OF.get(os.path.splitext(name)[1].lower())
    if kind is FileKind.PDF or head.startswith(b"%PDF-"):
        return FileKind.PDF
    if is_binary(head):
        return None
    return kind or FileKind.TEXT


def kind_of_stdin(head: bytes) -> FileKind:
    """What comes without a name."""
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    if begin.startswith(b"%pdf-"):
        return FileKind.PDF
    if begin.startswith((b"<!doctype html", b"<html")):
        return FileKind.HTML
    return FileKind.JSONL if begin.startswith(b"{") else FileKind.TEXT


def digest_of(path: Path, recipe: str) -> str:
    """Of the file's bytes and of how they are made into chunks."""
    found = hashlib.blake2b(recipe.encode(), digest_size=16)
    with path.open("rb") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()


def printable(path: Path) -> str:
    """A path as Unicode, ``/`` between its parts; bytes that are no UTF-8 as ``\\xff``."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    """Globs on the path under the directory or on the name; ``*`` goes over ``/`` too, ``dir/`` means all in it."""
    name = relative.rpartition("/")[2]
    return any(
        fnmatch.fnmatchcase(relative, pattern)
        or fnmatch.fnmatchcase(name, pattern)
        or relative.startswith(f"{pattern.rstrip('/')}/")
        or f"/{pattern.rstrip('/')}/" in f"/{relative.rpartition('/')[0]}/"
        for pattern in patterns
    )
