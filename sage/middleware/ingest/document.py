"""What a parser makes of a file: sections under their headings, in the order of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SIZE = 900
"""Size of a chunk: about 200 tokens of English, or 300 Chinese characters. Small embedders can read it completely (they
read 256 tokens), and their vectors distinguish texts of this size best."""
OVERLAP = 100
OWN_FIELDS = ("source", "path", "title", "page", "heading", "chunk", "chunks", "digest")
"""Metadata that ``sage ingest`` writes itself."""


class FileKind(StrEnum):
    """How a file is read."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    PDF = "pdf"
    DOCX = "docx"
    PPTX = "pptx"
    SHEET = "xlsx"
    EPUB = "epub"
    CSV = "csv"
    NOTEBOOK = "ipynb"
    CODE = "code"
    JSONL = "jsonl"


class Unreadable(Exception):
    """A file cannot be ingested. The message says why, without the file's name."""


@dataclass(frozen=True, slots=True)
class TextSection:
    """The text under one heading, without the heading's own line.

    ``pages`` are the starts of pages in ``text`` as ``(offset in characters, page number from 1)``, ascending.
    """

    heading: tuple[str, ...]
    text: str
    pages: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """One parsed file. ``markdown`` texts are Markdown, so lists, tables and code stay together."""

    sections: list[TextSection]
    title: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    markdown: bool = False


@dataclass
class HeadingPath:
    """The headings above a text, outermost first, while a document is read from top to bottom."""

    _open: list[tuple[int, str]] = field(default_factory=list)

    def enter(self, level: int, name: str) -> None:
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, one_line(name)))

    def path(self) -> tuple[str, ...]:
        return tuple(name for _, name in self._open if name)


def gather(texts: Iterable[tuple[tuple[str, ...], str]], tidy: Callable[[str], str] = str.strip) -> list[TextSection]:
    """Sections of ``(heading, text)``; a heading without text is kept only if no section is below it."""
    pairs = [(heading, tidy(text)) for heading, text in texts]
    sections = []
    for number, (heading, text) in enumerate(pairs):
        following = pairs[number + 1][0] if number + 1 < len(pairs) else ()
        if text or (heading and following[: len(heading)] != heading):
            sections.append(TextSection(heading, text))
    return sections


def picture(alt: str) -> str:
    """What stands for a picture in a text, by its alternative text; ``""`` if it has none."""
    alt = one_line(alt, 1000)
    return f"![{alt}]" if alt else ""


def one_line(text: str, max_length: int = 200) -> str:
    """A heading or title on one line, cut after ``max_length`` characters."""
    return " ".join(text.split())[:max_length]
