"""Reads one file into records: the work of the child of :mod:`.parser`, without its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.errors import MissingExtra
from sage.middleware.ingest.chunks import chunks
from sage.middleware.ingest.decoding import decode
from sage.middleware.ingest.document import OVERLAP, SIZE, FileKind, ParsedDocument, TextSection, Unreadable
from sage.middleware.ingest.formats.code import language_of, parse_code
from sage.middleware.ingest.formats.docx import parse_docx
from sage.middleware.ingest.formats.epub import parse_epub
from sage.middleware.ingest.formats.html import parse_html
from sage.middleware.ingest.formats.markdown import parse_markdown
from sage.middleware.ingest.formats.notebook import parse_notebook
from sage.middleware.ingest.formats.pdf import load_pypdf, parse_pdf
from sage.middleware.ingest.formats.pptx import parse_pptx
from sage.middleware.ingest.formats.sheets import load_calamine, parse_csv, parse_sheets
from sage.middleware.ingest.jsonl import read_lines
from sage.middleware.ingest.legacy_encodings import legacy_encoding

RECIPE = 3
"""Increase this when the same file gives other chunks; files that were ingested before are then ingested again."""


@dataclass(frozen=True, slots=True)
class Order:
    """The file that a child reads, and how. ``offset`` and ``line`` are bytes and lines of JSON lines to skip."""

    path: str
    kind: FileKind
    encoding: str | None = None
    size: int = SIZE
    overlap: int = OVERLAP
    offset: int = 0
    line: int = 0


def read(order: Order) -> Iterator[dict[str, Any]]:
    """For JSON lines, one record a line; for other kinds ``{"title", "metadata"}`` and then one record a chunk:
    ``{"text", "heading"?, "page"?}``. Raises :class:`Unreadable`, and :class:`OSError`.
    """
    path = Path(order.path)
    if order.kind is FileKind.JSONL:
        yield from read_lines(path, order.offset, order.line)
        return
    document = parse(path, order.kind, order.encoding)
    yield {"title": document.title, "metadata": document.metadata}
    for chunk in chunks(document, order.size, order.overlap):
        record: dict[str, Any] = {"text": chunk.text}
        if chunk.heading:
            record["heading"] = list(chunk.heading)
        if chunk.page is not None:
            record["page"] = chunk.page
        yield record


def parse(path: Path, kind: FileKind, encoding: str | None = None) -> ParsedDocument:
    """Raises :class:`Unreadable` for a file that cannot be read as ``kind``."""
    if kind in _FROM_PATH:
        return _FROM_PATH[kind](path)
    data = path.read_bytes()
    if kind is FileKind.HTML:
        return parse_html(data, encoding)
    text = decode(data, encoding)
    if kind in _FROM_TEXT:
        return _FROM_TEXT[kind](text)
    if kind is FileKind.CODE:
        return parse_code(text, language_of(path.name))
    if kind is FileKind.TEXT:
        return ParsedDocument([TextSection((), text)] if text.strip() else [])
    raise Unreadable(f"{kind} has no sections")


_FROM_PATH: Mapping[FileKind, Callable[[Path], ParsedDocument]] = {
    FileKind.PDF: parse_pdf,
    FileKind.DOCX: parse_docx,
    FileKind.PPTX: parse_pptx,
    FileKind.SHEET: parse_sheets,
    FileKind.EPUB: parse_epub,
}
_FROM_TEXT: Mapping[FileKind, Callable[[str], ParsedDocument]] = {
    FileKind.MARKDOWN: parse_markdown,
    FileKind.CSV: parse_csv,
    FileKind.NOTEBOOK: parse_notebook,
}


def load(kind: FileKind) -> None:
    """Imports the packages that ``kind`` needs; raises :class:`sage.errors.MissingExtra`."""
    if kind is FileKind.JSONL:
        return
    if kind is FileKind.PDF:
        load_pypdf()
    elif kind is FileKind.SHEET:
        load_calamine()
    elif kind in (FileKind.HTML, FileKind.EPUB):
        parse_html(b"x")
    elif kind in (FileKind.MARKDOWN, FileKind.NOTEBOOK):
        parse_markdown("x")
    with suppress(MissingExtra):  # most text needs no detection
        legacy_encoding("é".encode("cp1252"))
    list(chunks(ParsedDocument([TextSection((), "x")])))
