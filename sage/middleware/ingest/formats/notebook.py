"""Notebooks (``.ipynb``): their texts and code in order, with what the code printed.

Source: Jupyter's notebook format (https://nbformat.readthedocs.io/en/latest/format_description.html), 3 and 4.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sage.middleware.ingest.document import ParsedDocument, Unreadable
from sage.middleware.ingest.formats.html import fenced
from sage.middleware.ingest.formats.markdown import parse_markdown

_MOST_OUTPUT = 2000
"""Characters of what one cell printed."""


def parse_notebook(text: str) -> ParsedDocument:
    """Raises :class:`Unreadable` for what is no notebook."""
    try:
        book = json.loads(text)
    except ValueError as exc:
        raise Unreadable(f"is no notebook: it is not JSON ({exc})") from None
    if not isinstance(book, dict):
        raise Unreadable("is no notebook: it is no JSON object")
    cells = book.get("cells")
    if cells is None:
        cells = [cell for sheet in _objects(book.get("worksheets")) for cell in _objects(sheet.get("cells"))]
    blocks = [block for cell in _objects(cells) for block in _blocks(cell)]
    document = parse_markdown("\n\n".join(blocks))
    kernel = (book.get("metadata") or {}).get("kernelspec") if isinstance(book.get("metadata"), dict) else None
    language = kernel.get("language") if isinstance(kernel, dict) else None
    metadata = {"language": language[:35]} if isinstance(language, str) else {}
    return replace(document, metadata={**document.metadata, **metadata})


def _blocks(cell: Mapping[str, Any]) -> Iterator[str]:
    kind, source = cell.get("cell_type"), _joined(cell.get("source", cell.get("input")))
    if kind == "heading":  # of format 3
        level = cell.get("level")
        yield f"{'#' * (level if isinstance(level, int) and 0 < level < 7 else 1)} {source}"
    elif kind == "code":
        if source.strip():
            yield fenced(source)
        printed = "".join(_printed(output) for output in _objects(cell.get("outputs"))).strip()
        if printed:
            yield fenced(printed[:_MOST_OUTPUT])
    elif source.strip():
        yield source


def _printed(output: Mapping[str, Any]) -> str:
    data = output.get("data")
    plain = data.get("text/plain") if isinstance(data, dict) else None
    return _joined(output.get("text", plain))


def _joined(source: Any) -> str:
    """A text, which may be a list of its lines."""
    lines = source if isinstance(source, list) else [source]
    return "".join(line for line in lines if isinstance(line, str))


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
