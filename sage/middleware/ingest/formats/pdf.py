"""PDF: the text of each page, with the entries of the outline as headings."""

from __future__ import annotations

import logging
import re
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sage.errors import MissingExtra
from sage.middleware.ingest.document import HeadingPath, ParsedDocument, TextSection, Unreadable, one_line
from sage.middleware.ingest.formats.pdf_tables import TablePages, load_pdfplumber, may_have_tables

_HYPHEN = re.compile(r"(?<=[a-zà-ÿ]{2})-\n(?=[a-zà-ÿ]{2})")
_DEEPEST = 6
_MOST_ENTRIES = 10_000


def load_pypdf() -> tuple[type[Any], type[Exception]]:
    """The reader and the base class of its errors; raises :class:`MissingExtra`."""
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError as exc:
        raise MissingExtra("sage ingest of PDF", "ingest") from exc
    with suppress(MissingExtra):
        load_pdfplumber()
    return PdfReader, PyPdfError


def parse_pdf(path: Path) -> ParsedDocument:
    """One section for each outline entry (or one for all pages), with the starts where pages begin.

    Raises :class:`Unreadable` for a file that is encrypted, has no text, or is not a PDF.
    """
    reader_of, error = load_pypdf()
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = reader_of(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("is encrypted: it opens with a password only")
        with closing(TablePages(path)) as tables:
            pages = [_text(page, number, tables) for number, page in enumerate(reader.pages)]
        title, headings_by_page = _title(reader), _outline(reader)
    except error as exc:
        raise Unreadable(f"cannot be read as PDF: {one_line(str(exc))}") from None
    if not any(pages):
        raise Unreadable(f"has no text in its {len(pages)} pages (scanned?): recognise its text (OCR) first")
    return ParsedDocument(_sections(pages, headings_by_page), title)


def _sections(pages: list[str], headings_by_page: dict[int, tuple[str, ...]]) -> list[TextSection]:
    """Pages joined under the last outline entry that headings_by_page on them or before."""
    sections: list[TextSection] = []
    heading: tuple[str, ...] = ()
    texts: list[str] = []
    starts: list[tuple[int, int]] = []
    length = 0

    def close() -> None:
        if texts:
            sections.append(TextSection(heading, "\n\n".join(texts), tuple(starts)))

    for number, text in enumerate(pages, 1):
        if (entered := headings_by_page.get(number, heading)) != heading:
            close()
            heading, texts, starts, length = entered, [], [], 0
        if text:
            starts.append((length, number))
            texts.append(text)
            length += len(text) + 2
    close()
    return sections


def _text(page: Any, number: int, tables: TablePages) -> str:
    text = tables.text(number, _tidy) if may_have_tables(page) else None
    return _tidy(page.extract_text()) if text is None else text


def _tidy(text: str) -> str:
    """Lines as they stand, words put together that were parted at a line's end, without what cannot be encoded."""
    text = text.replace("\x00", "").encode("utf-8", "ignore").decode()
    return _HYPHEN.sub("", "\n".join(line.rstrip() for line in text.splitlines())).strip()


def _title(reader: Any) -> str | None:
    try:
        title = reader.metadata.title if reader.metadata else None
    except Exception:  # a broken title must not cost the file
        return None
    return one_line(title) or None if isinstance(title, str) else None


def _outline(reader: Any) -> dict[int, tuple[str, ...]]:
    """The path of the first outline entry of each page that has one."""
    headings_by_page: dict[int, tuple[str, ...]] = {}
    headings = HeadingPath()
    try:
        stack: list[tuple[Any, int]] = [(entry, 1) for entry in reversed(reader.outline)]
        for _ in range(_MOST_ENTRIES):
            if not stack:
                break
            entry, level = stack.pop()
            if isinstance(entry, list):
                stack += [(inner, min(level + 1, _DEEPEST)) for inner in reversed(entry)]
                continue
            headings.enter(level, str(entry.title))
            number = reader.get_destination_page_number(entry)
            if number is not None and number >= 0:
                headings_by_page.setdefault(number + 1, headings.path())
    except Exception:  # a broken outline must not cost the file
        return headings_by_page
    return headings_by_page
