"""Word documents (``.docx``): text under its headings, lists, tables, footnotes and pictures' alternative texts.

Source: ECMA-376, part 1, *WordprocessingML*.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

from sage.middleware.ingest.document import HeadingPath, ParsedDocument, Unreadable, gather, one_line, picture
from sage.middleware.ingest.formats.archives import Archive, open_archive
from sage.middleware.ingest.tables import markdown_table

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_DOCUMENT_PROPERTIES = "{http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing}docPr"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_LEFT_OUT = frozenset({f"{_W}del", f"{_W}moveFrom", f"{_W}instrText", f"{_W}rPr", f"{_W}pPr", _FALLBACK})
_HEADING = re.compile(r"heading ([1-9])")
_CHARACTERS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}


def parse_docx(path: Path) -> ParsedDocument:
    """Raises :class:`Unreadable` for a file that is encrypted, damaged or no Word document."""
    with open_archive(path, "Word document (.docx)") as archive:
        main = next((name for kind, name in archive.relations("").values() if kind == "officeDocument"), None)
        if main is None or main not in archive:
            raise Unreadable("is not a Word document (.docx): it has no text")
        reader = _WordReader(_styles(archive, main))
        body = archive.xml(main).find(f"{_W}body")
        if body is None:
            raise Unreadable("is not a Word document (.docx): it has no text")
        pairs = list(reader.sections(body))
        notes = list(_notes(archive, main))
        if notes:
            pairs.append(((), "\n\n".join(notes)))
        return ParsedDocument(gather(pairs), archive.title() or reader.title, markdown=True)


def _styles(archive: Archive, main: str) -> Mapping[str, str]:
    """The names of paragraph styles by id, in lower case; a style that is based on another has that one's."""
    name = next((part for kind, part in archive.relations(main).values() if kind == "styles"), "")
    if name not in archive:
        return {}
    names, bases = {}, {}
    for style in archive.xml(name).iter(f"{_W}style"):
        key = style.get(f"{_W}styleId", "")
        names[key] = _value(style.find(f"{_W}name")).lower()
        bases[key] = _value(style.find(f"{_W}basedOn"))
    for key in names:
        base, seen = key, {key}
        while not _HEADING.fullmatch(names.get(base, "")) and bases.get(base) not in (None, "", *seen):
            base = bases[base]
            seen.add(base)
        if _HEADING.fullmatch(names.get(base, "")):
            names[key] = names[base]
    return names


def _notes(archive: Archive, main: str) -> Iterator[str]:
    for kind, name in archive.relations(main).values():
        if kind in ("footnotes", "endnotes") and name in archive:
            for note in archive.xml(name):
                if note.get(f"{_W}type") is None and (text := " ".join(_text(note).split())):
                    yield text


@dataclass
class _WordReader:
    styles: Mapping[str, str]
    title: str | None = None
    _headings: HeadingPath = field(default_factory=HeadingPath)
    _blocks: list[str] = field(default_factory=list)

    def sections(self, body: Element) -> Iterator[tuple[tuple[str, ...], str]]:
        for block in _blocks_of(body):
            if block.tag == f"{_W}tbl":
                self._blocks.append(markdown_table(_rows(block)))
                continue
            text = _text(block).strip("\n")
            level = self._level(block, text)
            if level is not None:
                yield self._headings.path(), self._taken()
                self._headings.enter(level, text)
            elif text.strip():
                self._add(block, text)
        yield self._headings.path(), self._taken()

    def _level(self, paragraph: Element, text: str) -> int | None:
        """Of a heading; ``None`` means that the paragraph is none."""
        properties = paragraph.find(f"{_W}pPr")
        if properties is None or not text.strip():
            return None
        name = self.styles.get(_value(properties.find(f"{_W}pStyle")), "")
        if name == "title":
            self.title = self.title or one_line(text)
            return 1
        heading = _HEADING.fullmatch(name)
        if heading:
            return int(heading[1])
        outline = _value(properties.find(f"{_W}outlineLvl"))
        return int(outline) + 1 if outline.isdigit() and int(outline) < 9 else None

    def _add(self, paragraph: Element, text: str) -> None:
        is_item = paragraph.find(f"{_W}pPr/{_W}numPr") is not None
        name = self.styles.get(_value(paragraph.find(f"{_W}pPr/{_W}pStyle")), "")
        if not is_item and not name.startswith("list"):
            self._blocks.append(text)
        elif self._blocks and self._blocks[-1].startswith("- "):
            self._blocks[-1] += f"\n- {text}"
        else:
            self._blocks.append(f"- {text}")

    def _taken(self) -> str:
        text = "\n\n".join(filter(None, self._blocks))
        self._blocks = []
        return text


def _blocks_of(parent: Element) -> Iterator[Element]:
    """Paragraphs and tables, also those in content controls and the like."""
    stack = [iter(parent)]
    while stack:
        child = next(stack[-1], None)
        if child is None:
            stack.pop()
        elif child.tag in (f"{_W}p", f"{_W}tbl"):
            yield child
        elif child.tag not in _LEFT_OUT:
            stack.append(iter(child))


def _rows(table: Element) -> Iterator[list[str]]:
    for row in table.findall(f"{_W}tr"):
        cells: list[str] = []
        for cell in row.iter(f"{_W}tc"):
            cells.append(" ".join(_text(cell).split()))
            span = _value(cell.find(f"{_W}tcPr/{_W}gridSpan"))
            cells += [""] * (min(int(span), 100) - 1 if span.isdigit() else 0)
        yield cells


def _text(element: Element) -> str:
    """What an element shows, with pictures' alternative texts; not what was deleted."""
    pieces: list[str] = []
    stack = [iter((element,))]
    while stack:
        child = next(stack[-1], None)
        if child is None:
            stack.pop()
            continue
        if child.tag in _LEFT_OUT:
            continue
        if child.tag == f"{_W}t":
            pieces.append(child.text or "")
        elif child.tag in _CHARACTERS:
            pieces.append(_CHARACTERS[child.tag])
        elif child.tag == _DOCUMENT_PROPERTIES:
            pieces.append(picture(child.get("descr", "")))
        elif child.tag == f"{_W}p" and pieces:
            pieces.append("\n")
        stack.append(iter(child))
    return "".join(pieces)


def _value(element: Element | None) -> str:
    return "" if element is None else element.get(f"{_W}val", "")
