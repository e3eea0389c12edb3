"""Presentations (``.pptx``): each slide under its title, with tables, notes and pictures' alternative texts.

Source: ECMA-376, part 1, *PresentationML* and *DrawingML*.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from sage.middleware.ingest.document import ParsedDocument, TextSection, Unreadable, one_line, picture
from sage.middleware.ingest.formats.archives import Archive, open_archive
from sage.middleware.ingest.tables import markdown_table

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_NOT_TEXT = ("sldNum", "dt", "ftr", "hdr", "sldImg")
"""Placeholders for numbers, dates and lines that every slide has."""


def parse_pptx(path: Path) -> ParsedDocument:
    """One section a slide; its page is the slide's number. Raises :class:`Unreadable` for a file that is encrypted,
    damaged or no presentation."""
    with open_archive(path, "presentation (.pptx)") as archive:
        main = next((name for kind, name in archive.relations("").values() if kind == "officeDocument"), None)
        if main is None or main not in archive:
            raise Unreadable("is not a presentation (.pptx): it has no slides")
        relations = archive.relations(main)
        slides = [relations.get(slide.get(_ID, ""), ("", ""))[1] for slide in archive.xml(main).iter(f"{_P}sldId")]
        sections = [_slide(archive, name, number) for number, name in enumerate(slides, 1) if name in archive]
        return ParsedDocument(
            [section for section in sections if section.text or section.heading], archive.title(), markdown=True
        )


def _slide(archive: Archive, name: str, number: int) -> TextSection:
    slide = archive.xml(name)
    title = ""
    blocks: list[str] = []
    for shape in _shapes(slide):
        kind = _placeholder(shape)
        if kind in ("title", "ctrTitle") and not title:
            title = one_line(_paragraphs(shape))
        elif kind not in _NOT_TEXT:
            blocks += _blocks(shape)
    blocks += _notes(archive, name)
    return TextSection((title,) if title else (), "\n\n".join(filter(None, blocks)), ((0, number),))


def _shapes(slide: Element) -> Iterator[Element]:
    """In their order, also those in groups."""
    wanted = (f"{_P}sp", f"{_P}graphicFrame", f"{_P}pic")
    return (element for element in slide.iter() if element.tag in wanted)


def _blocks(shape: Element) -> Iterator[str]:
    for properties in shape.iter(f"{_P}cNvPr"):
        yield picture(properties.get("descr", ""))
    tables = list(shape.iter(f"{_A}tbl"))
    for table in tables:
        yield markdown_table([_paragraphs(cell) for cell in row.iter(f"{_A}tc")] for row in table.iter(f"{_A}tr"))
    if not tables:
        yield _paragraphs(shape)


def _notes(archive: Archive, name: str) -> Iterator[str]:
    for kind, part in archive.relations(name).values():
        if kind == "notesSlide" and part in archive:
            for shape in _shapes(archive.xml(part)):
                if _placeholder(shape) not in _NOT_TEXT:
                    yield _paragraphs(shape)


def _placeholder(shape: Element) -> str | None:
    """Such as ``title``; ``None`` means that the shape is no placeholder."""
    placeholder = next(shape.iter(f"{_P}ph"), None)
    return None if placeholder is None else placeholder.get("type", "body")


def _paragraphs(shape: Element) -> str:
    lines = []
    for paragraph in shape.iter(f"{_A}p"):
        text = "".join(
            (piece.text or "") if piece.tag == f"{_A}t" else "\n"
            for piece in paragraph.iter()
            if piece.tag in (f"{_A}t", f"{_A}br")
        )
        if text.strip():
            lines.append(text.strip())
    return "\n".join(lines)
