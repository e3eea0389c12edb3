"""Chunks: passages of similar size that keep paragraphs, sentences, tables and code together.

The splitter is semantic-text-splitter: Rust, no dependencies, linear in time (0.07 s of CPU a megabyte here), cuts at
the largest unit that fits, knows Unicode's sentences and words (Chinese ones by dictionary) and CommonMark's blocks.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from sage.errors import MissingExtra
from sage.middleware.ingest.document import OVERLAP, SIZE, ParsedDocument, TextSection
from sage.middleware.ingest.tables import table_parts

_CHINESE_SIZE = 3
_CHINESE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
_SEPARATOR = " > "
_LONGEST_LINE = 240  # characters of a heading path above a chunk


@dataclass(frozen=True, slots=True)
class Chunk:
    """``text`` begins with the heading path on a line of its own, if any; ``page`` is the page of its start."""

    text: str
    heading: tuple[str, ...]
    page: int | None


class _Splitter(Protocol):
    def chunk_indices(self, text: str) -> list[tuple[int, str]]: ...


def measure(text: str) -> int:
    """Size in characters. A Chinese, Japanese or Korean character counts as three, because it is about one token."""
    return len(text) + (_CHINESE_SIZE - 1) * len(_CHINESE.findall(text))


def chunks(document: ParsedDocument, size: int = SIZE, overlap: int = OVERLAP) -> Iterator[Chunk]:
    """The document in chunks of at most ``size`` (see :func:`measure`), each section by itself.

    Neighbours within a section share up to ``overlap``; the heading path counts into the size, up to half of it.
    """
    splitters: dict[int, _Splitter] = {}
    for section in document.sections:
        line = heading_line(section.heading)
        available = max(size - measure(line), size // 2, 1)
        if available not in splitters:
            splitters[available] = _splitter(document.markdown, available, min(overlap, available - 1))
        yield from _of_section(section, line, splitters[available], available, document.markdown)


def heading_line(heading: tuple[str, ...]) -> str:
    """``Guide > Install > Docker``; a long path is cut at its beginning."""
    line = _SEPARATOR.join(heading)
    return line if len(line) <= _LONGEST_LINE else f"…{line[-_LONGEST_LINE:]}"


def _of_section(section: TextSection, line: str, splitter: _Splitter, size: int, markdown: bool) -> Iterator[Chunk]:
    if not section.text.strip():
        yield Chunk(line, section.heading, None)
        return
    starts = [offset for offset, _ in section.pages]
    for offset, text in _texts(section.text, splitter, size, markdown):
        index = bisect.bisect_right(starts, offset) - 1
        page = section.pages[index][1] if index >= 0 else None
        yield Chunk(f"{line}\n\n{text}" if line else text, section.heading, page)


def _texts(text: str, splitter: _Splitter, size: int, markdown: bool) -> Iterator[tuple[int, str]]:
    """The chunks of ``text``, each with its offset. Every chunk of a long table begins with the table's header. Only a
    splitter of Markdown keeps short tables together, so in other texts they are chunks of their own."""
    for start, part, is_table in table_parts(text, size, measure, apart=not markdown):
        if is_table:
            yield start, part
        else:
            yield from ((start + offset, chunk) for offset, chunk in splitter.chunk_indices(part))


def _splitter(markdown: bool, size: int, overlap: int) -> _Splitter:
    try:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter
    except ImportError as exc:
        raise MissingExtra("sage ingest", "ingest") from exc
    if markdown:
        return MarkdownSplitter.from_callback(measure, size, overlap=overlap)
    return TextSplitter.from_callback(measure, size, overlap=overlap)
