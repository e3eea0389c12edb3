"""What a parser makes of a file: sections under their headings, in the order in which they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SIZE = 900
"""Of a chunk: about 200 tokens of English, or 300 Chinese characters: what small embedders read whole (256 tokens) and
what their vectors tell apart best."""
OVERLAP = 100
OWN_FIELDS = ("source", "path", "title", "page", "heading", "chunk", "chunks", "digest")
"""Metadata that ``sage ingest`` writes itself."""


class FileKind(StrEnum):
    """How a file is read."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    PDF = "pdf"
    JSONL = "jsonl"


class Unreadable(Exception):
    """A file that cannot be taken in. The message says why, without the file's name."""


@dataclass(frozen=True, slots=True)
class TextSection:
    """The text under one heading, without the heading's own line.

    ``pages``: where in ``text`` a page begins, as ``(offset in characters, page number from 1)``, ascending.
    """

    heading: tuple[str, ...]
    text: str
    pages: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """One file, parsed. ``markdown``: the texts are Markdown, so that lists, tables and code hold together."""

    sections: list[TextSection]
    title: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    markdown: bool = False


@dataclass
class HeadingPath:
    """The headings that a text stands under, outermost first, while a document is read from top to bottom."""

    _open: list[tuple[int, str]] = field(default_factory=list)

    def enter(self, level: int, name: str) -> None:
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, one_line(name)))

    def path(self) -> tuple[str, ...]:
        return tuple(name for _, name in self._open if name)


def gather(found: Iterable[tuple[tuple[str, ...], str]], tidy: Callable[[str], str] = str.strip) -> list[TextSection]:
    """Sections of ``(heading, text)``; a heading without text stays only where nothing stands under it."""
    pairs = [(heading, tidy(text)) for heading, text in found]
    kept = []
    for place, (heading, text) in enumerate(pairs):
        following = pairs[place + 1][0] if place + 1 < len(pairs) else ()
        if text or (heading and following[: len(heading)] != heading):
            kept.append(TextSection(heading, text))
    return kept


def one_line(text: str, most: int = 200) -> str:
    """A heading or title on one line, cut where it is too long to be one."""
    return " ".join(text.split())[:most]
