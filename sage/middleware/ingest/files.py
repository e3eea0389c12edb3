"""The files that the arguments name: their kinds, and their names in a collection."""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sage.errors import InvalidRequest
from sage.middleware.ingest.decoding import is_binary
from sage.middleware.ingest.document import FileKind, Unreadable
from sage.middleware.ingest.formats.code import LANGUAGES
from sage.middleware.ingest.ignoring import IgnoreRules

_KINDS = {
    FileKind.MARKDOWN: (".md", ".markdown", ".mdown", ".mkd", ".mdx"),
    FileKind.HTML: (".html", ".htm", ".xhtml"),
    FileKind.PDF: (".pdf",),
    FileKind.DOCX: (".docx", ".docm"),
    FileKind.PPTX: (".pptx", ".pptm"),
    FileKind.SHEET: (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"),
    FileKind.EPUB: (".epub",),
    FileKind.CSV: (".csv", ".tsv"),
    FileKind.NOTEBOOK: (".ipynb",),
    FileKind.CODE: tuple(LANGUAGES),
    FileKind.JSONL: (".jsonl", ".ndjson", ".jsonlines"),
}
_KIND_OF = {ending: kind for kind, endings in _KINDS.items() for ending in endings}
_HEAD = 8192  # bytes that decide the kind of a file
_ARCHIVES = {
    b"mimetypeapplication/epub+zip": FileKind.EPUB,
    b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet": FileKind.SHEET,
    b"word/": FileKind.DOCX,
    b"ppt/": FileKind.PPTX,
    b"xl/": FileKind.SHEET,
}
"""What stands near the beginning of a ZIP archive that is a document."""
_IN_ARCHIVES = frozenset(_ARCHIVES.values())


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file to ingest. ``source`` is its name in the collection, ``relative`` its path under the directory of the
    arguments, and ``label`` its name in messages. ``obstacle`` says why it cannot be ingested; ``None`` means that it
    may be."""

    path: Path
    source: str
    relative: str
    kind: FileKind
    size: int
    label: str
    obstacle: str | None = None

    def check(self) -> None:
        """Raises :class:`Unreadable` for a file with an obstacle."""
        if self.obstacle is not None:
            raise Unreadable(self.obstacle)


@dataclass(frozen=True)
class WalkedDirectory:
    """A directory as it was when it was walked: what is at its place later may be another one, or none."""

    path: Path
    identity: tuple[int, int] | None

    @classmethod
    def at(cls, path: Path) -> WalkedDirectory:
        """That which is at ``path`` now."""
        return cls(path, _identity(path))

    def has_lost(self, relative: str) -> bool:
        """Whether a file is gone from the directory, which itself is still there (no disk was unmounted, and nobody has
        moved it away)."""
        path = self.path / relative
        if self.identity is None or os.path.lexists(path) or _identity(self.path) != self.identity:
            return False
        return not os.path.lexists(path)  # looked at again: it may have been away for a moment


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass
class Walk:
    """Finds the files of the arguments and counts skipped ones by reason. ``alias`` is the value of ``--as``."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    alias: str | None = None
    kind: FileKind | None = None
    ignore_rules: bool = True
    """Whether ``.gitignore`` files of the directories count."""
    skipped: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, str]] = field(default_factory=list)
    roots: dict[str, WalkedDirectory] = field(default_factory=dict)
    """Directories, by the prefix of their files' sources."""

    def find(self, arguments: Sequence[Path]) -> list[FileEntry]:
        """Every file once; files of a directory are sorted by name.

        Raises :class:`InvalidRequest` for an argument that does not exist.
        """
        entries: dict[str, FileEntry] = {}
        for argument in arguments:
            if not argument.exists():
                raise InvalidRequest(f"{printable(argument)}: there is no such file or directory")
            for file in self._directory(argument) if argument.is_dir() else self._named(argument):
                entries.setdefault(file.source, file)
        return list(entries.values())

    def _named(self, path: Path) -> Iterator[FileEntry]:
        if not path.is_file():
            self._fail(path, "is not a regular file; pipe it in: sage ingest COLLECTION -")
            return
        source = self.alias if self.alias is not None else printable(path.resolve())
        file = self._entry(path, source, printable(Path(path.name)), named=True)
        if file is not None:
            yield file if self.alias is not None else _with_obstacle(file, path.resolve())

    def _directory(self, root: Path) -> Iterator[FileEntry]:
        above = Path() if self.alias is not None else root.resolve()
        base = self.alias if self.alias is not None else printable(above).rstrip("/")
        self.roots[f"{base}/"] = WalkedDirectory.at(root)

        def record_failure(error: OSError) -> None:
            self._fail(Path(error.filename), f"cannot be read: {error.strerror}")

        rules = IgnoreRules(root) if self.ignore_rules else None
        for directory, names, files in os.walk(root, onerror=record_failure):
            self._prune_directories(Path(directory), names, root, rules)
            for name in sorted(files):
                path = Path(directory, name)
                relative = printable(path.relative_to(root))
                if self._is_selected(path, relative, rules):
                    file = self._entry(path, f"{base}/{relative}", relative, named=False)
                    if file is not None:
                        yield _with_obstacle(file, above / path.relative_to(root))

    def _prune_directories(self, directory: Path, names: list[str], root: Path, rules: IgnoreRules | None) -> None:
        """Removes hidden and ignored directories and links from those that :func:`os.walk` will enter."""
        entered = []
        for name in sorted(names):
            if name.startswith("."):
                self._skip("hidden")
            elif (directory / name).is_symlink():
                self._skip("link")
            elif rules is not None and rules.ignores(str((directory / name).relative_to(root)), is_directory=True):
                self._skip("ignored")
            else:
                entered.append(name)
        names[:] = entered

    def _is_selected(self, path: Path, relative: str, rules: IgnoreRules | None) -> bool:
        reason = unselected(relative, self.include, self.exclude, is_link=path.is_symlink(), is_file=path.is_file())
        if reason is None and rules is not None and rules.ignores(relative):
            reason = "ignored"
        if reason is not None:
            self._skip(reason)
        return reason is None

    def _fail(self, path: Path, reason: str) -> None:
        self.failed.append((printable(path), reason))

    def _skip(self, reason: str) -> None:
        self.skipped[reason] += 1

    def _entry(self, path: Path, source: str, relative: str, *, named: bool) -> FileEntry | None:
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
                size = os.fstat(file.fileno()).st_size
        except OSError as exc:
            self._fail(path, f"cannot be read: {exc.strerror}")
            return None
        kind = self.kind or kind_of(path.name, head)
        if kind is None:
            if named:
                self._fail(path, "is neither text nor a document of a known kind")
            else:
                self._skip("binary")
            return None
        return FileEntry(path, source, relative, kind, size, printable(path))


def unselected(
    relative: str, include: Sequence[str], exclude: Sequence[str], *, is_link: bool, is_file: bool
) -> str | None:
    """Why a file of a directory is not taken; ``None`` means that it is."""
    if relative.rpartition("/")[2].startswith("."):
        return "hidden"
    if is_link:
        return "link"
    if not is_file:
        return "special"
    if include and not _matches(relative, include):
        return "not included"
    return "excluded" if _matches(relative, exclude) else None


def kind_of(name: str, head: bytes) -> FileKind | None:
    """The kind of a file by its name and first bytes; ``None`` means binary."""
    kind = _KIND_OF.get(os.path.splitext(name)[1].lower())
    if kind is FileKind.PDF or head.startswith(b"%PDF-"):
        return FileKind.PDF
    if kind in _IN_ARCHIVES:
        return kind
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(head)
    if is_binary(head):
        return None
    return kind or FileKind.TEXT


def _kind_of_archive(head: bytes) -> FileKind | None:
    return next((kind for mark, kind in _ARCHIVES.items() if mark in head), None)


def kind_of_stdin(head: bytes) -> FileKind:
    """The kind of a file without a name, by its first bytes."""
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    if begin.startswith(b"%pdf-"):
        return FileKind.PDF
    if begin.startswith(b"pk\x03\x04"):
        return _kind_of_archive(head) or FileKind.TEXT
    if begin.startswith((b"<!doctype html", b"<html")):
        return FileKind.HTML
    return FileKind.JSONL if begin.startswith(b"{") else FileKind.TEXT


def digest_of(path: Path, recipe: str) -> str:
    """The digest of the file's bytes and of the recipe that makes chunks of them."""
    digest = hashlib.blake2b(recipe.encode(), digest_size=16)
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def printable(path: Path) -> str:
    """A path as Unicode with ``/`` between its parts; bytes that are not UTF-8 are written as ``\\xff``."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _with_obstacle(file: FileEntry, name: Path) -> FileEntry:
    """``file``, whose source is made of ``name``. Two names that are not UTF-8 might make one source."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        reason = "its name, or that of a directory above it, is not UTF-8; rename it, or give it a name with --as"
        return replace(file, obstacle=reason)
    return file


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    """Whether a glob matches the relative path or the name; ``*`` also matches ``/``, ``dir/`` all files in it."""
    name = relative.rpartition("/")[2]
    return any(
        fnmatch.fnmatchcase(relative, pattern)
        or fnmatch.fnmatchcase(name, pattern)
        or relative.startswith(f"{pattern.rstrip('/')}/")
        or f"/{pattern.rstrip('/')}/" in f"/{relative.rpartition('/')[0]}/"
        for pattern in patterns
    )
