"""Markdown: front matter, headings after CommonMark, and the sections between them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Any

from sage.errors import MissingExtra
from sage.middleware.ingest.document import HeadingPath, ParsedDocument, gather, one_line

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)?(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_MOST_VALUES = 50
_LONGEST_VALUE = 1000  # characters


def parse_markdown(text: str) -> ParsedDocument:
    """Sections by heading. Front matter becomes metadata, its ``title`` or the only first heading the title."""
    fields, body = _front_matter(text)
    sections = gather(_sections(body), lambda text: text.strip("\n"))
    title = fields.pop("title", None)
    if title is None and sections:
        firsts = {section.heading[:1] for section in sections}
        title = next(iter(firsts))[0] if len(firsts) == 1 and firsts != {()} else None
    return ParsedDocument(sections, one_line(str(title)) if title is not None else None, fields, markdown=True)


def _sections(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each heading's path and the lines below it, before the next."""
    lines = text.split("\n")
    headings, begin = HeadingPath(), 0
    for first, end, level, name in _headings(text):
        yield headings.path(), "\n".join(lines[begin:first])
        headings.enter(level, name)
        begin = end
    yield headings.path(), "\n".join(lines[begin:])


def _headings(text: str) -> Iterator[tuple[int, int, int, str]]:
    """First line, line after the last, level and text of each heading outside quotes, lists and code."""
    try:
        from markdown_it import MarkdownIt
    except ImportError as exc:
        raise MissingExtra("sage ingest of Markdown", "ingest") from exc
    tokens = MarkdownIt("commonmark", {"maxNesting": 20}).disable(["entity"]).parse(text)
    for index, token in enumerate(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            inline = tokens[index + 1]
            parts = [" " if child.type.endswith("break") else child.content for child in inline.children or ()]
            yield token.map[0], token.map[1], int(token.tag[1]), "".join(parts) or inline.content


def _front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The YAML between ``---`` lines at the very top as flat metadata, and the rest. Invalid YAML stays text."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return {}, text
    import yaml

    try:
        fields = yaml.safe_load(match[1] or "")
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}, text
    if not isinstance(fields, dict):
        return {}, text if fields is not None else text[match.end() :]
    metadata = {str(key): value for key, raw in fields.items() if (value := _metadata_value(raw)) is not None}
    return dict(list(metadata.items())[:_MOST_VALUES]), text[match.end() :]


def _metadata_value(value: Any) -> Any:
    """The value if a filter can match it: text, number, truth value, or a list of them; else ``None``."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, str):
        return value[:_LONGEST_VALUE]
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**53):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, list):  # nested lists are dropped: aliases can make them endless
        flat = [item for item in value[:_MOST_VALUES] if not isinstance(item, list | dict)]
        return [entry for item in flat if (entry := _metadata_value(item)) is not None]
    return None
