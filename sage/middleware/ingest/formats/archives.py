"""Documents that are ZIP archives of XML: their parts, within bounds.

Word, PowerPoint (ECMA-376, *Office Open XML*) and EPUB files are read with the standard library. Only the parts that
hold text are unpacked; macros, pictures and embedded files are never looked at, nothing that a part refers to
elsewhere is fetched, and a document type, which could define entities, is refused.
"""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from sage.middleware.ingest.document import Unreadable

MOST_PART = 256 * 2**20
"""Bytes of one part, unpacked."""
_MOST_PARTS = 20_000
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_RELATIONSHIP = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
_TITLE = "{http://purl.org/dc/elements/1.1/}title"


class Archive:
    """The parts of one file, while it is open (:func:`open_archive`)."""

    def __init__(self, opened: zipfile.ZipFile) -> None:
        self._zip = opened
        self._names = frozenset(opened.namelist())

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def read(self, name: str) -> bytes:
        """Raises :class:`Unreadable` for a part that is missing, damaged, encrypted or too large."""
        if name not in self._names:
            raise Unreadable(f"is damaged: it has no part {name}")
        try:
            with self._zip.open(name) as part:
                content = part.read(MOST_PART + 1)
        except RuntimeError:  # zipfile's error for a password
            raise Unreadable("is encrypted: it opens with a password only") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as exc:
            raise Unreadable(f"is damaged: its part {name} cannot be unpacked ({exc})") from None
        if len(content) > MOST_PART:
            raise Unreadable(f"has a part of more than {MOST_PART // 2**20} MiB: {name}")
        return content

    def xml(self, name: str) -> Element:
        """The root of a part. Raises :class:`Unreadable`."""
        content = self.read(name)
        if b"<!DOCTYPE" in content[:65536].upper() or b"<!ENTITY" in content[:65536].upper():
            raise Unreadable(f"its part {name} has a document type, which such a file has not")
        try:
            return ElementTree.fromstring(content)  # noqa: S314
        except (ElementTree.ParseError, ValueError, LookupError) as exc:
            raise Unreadable(f"is damaged: its part {name} is not XML ({exc})") from None

    def relations(self, name: str) -> Mapping[str, tuple[str, str]]:
        """``(kind, name of the part)`` by id, of what a part refers to within the file."""
        folder, _, file = name.rpartition("/")
        path = f"{folder}/_rels/{file}.rels" if folder else f"_rels/{file}.rels"
        if path not in self:
            return {}
        return {
            relation.get("Id", ""): (
                relation.get("Type", "").rpartition("/")[2],
                posixpath.normpath(posixpath.join("/", folder, unquote(relation.get("Target", "")))).lstrip("/"),
            )
            for relation in self.xml(path).iter(_RELATIONSHIP)
            if relation.get("TargetMode") != "External"
        }

    def title(self) -> str | None:
        """Of an Office file, as its properties tell it; ``None`` means that they do not."""
        name = "docProps/core.xml"
        title = self.xml(name).find(_TITLE) if name in self else None
        return (title.text or "").strip() or None if title is not None else None


def check_password(path: Path) -> bool:
    """Whether it is an Office file of the older kind. Raises :class:`Unreadable` for one of either that has a password:
    it is in a file of the older kind."""
    with path.open("rb") as file:
        if not file.read(len(_OLE)).startswith(_OLE):
            return False
    if _ENCRYPTED in path.read_bytes():
        raise Unreadable("is encrypted: it opens with a password only")
    return True


@contextmanager
def open_archive(path: Path, what: str) -> Iterator[Archive]:
    """``what`` names the kind of file in errors. Raises :class:`Unreadable`."""
    if check_password(path):
        raise Unreadable(f"is an older kind of file, not a {what}; save it as one")
    try:
        opened = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as exc:
        raise Unreadable(f"is not a {what}, or is cut off: it is no ZIP archive ({exc})") from None
    with opened:
        if len(opened.infolist()) > _MOST_PARTS:
            raise Unreadable(f"has more than {_MOST_PARTS} parts")
        yield Archive(opened)
