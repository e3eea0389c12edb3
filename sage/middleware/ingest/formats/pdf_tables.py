"""Tables of PDF files: those with lines between their cells, found by pdfplumber (extra ``pdf-tables``).

Where the package is not installed, tables are text as any other.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sage.errors import MissingExtra
from sage.middleware.ingest.tables import markdown_table

_LINES = re.compile(rb"(?<![\w.])(?:re|l)(?=\s|$)")
_FEWEST_LINES = 4
_MOST_TABLES = 100
"""Of a page."""


def load_pdfplumber() -> Any:
    """The module; raises :class:`MissingExtra`."""
    try:
        import pdfplumber
    except ImportError as exc:
        raise MissingExtra("tables of PDF files", "pdf-tables") from exc
    logging.getLogger("pdfminer").setLevel(logging.CRITICAL)
    return pdfplumber


def may_have_tables(page: Any) -> bool:
    """Whether a page of pypdf draws lines or boxes."""
    try:
        contents = page.get_contents()
        return contents is not None and len(_LINES.findall(contents.get_data())) >= _FEWEST_LINES
    except MemoryError:
        raise
    except Exception:  # what is wrong with a page is told where its text is read
        return False


class TablePages:
    """The pages of a file as pdfplumber reads them, which is opened for the first page with lines. :meth:`close` it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._plumber: Any = None
        with contextlib.suppress(MissingExtra):
            self._plumber = load_pdfplumber()
        self._opened: Any = None

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def text(self, number: int, tidy: Callable[[str], str]) -> str | None:
        """The text of the page with that number, from 0, with its tables as Markdown in their places; ``None`` means
        that it has none, or that they cannot be read."""
        if self._plumber is None:
            return None
        try:
            if self._opened is None:
                self._opened = self._plumber.open(self._path)
            page = self._opened.pages[number]
            tables = [table for table in page.find_tables() if _is_table(table)][:_MOST_TABLES]
            text = "\n\n".join(filter(None, map(str.strip, _parts(page, tables, tidy)))) if tables else None
            page.close()
            return text
        except MemoryError:
            raise
        except Exception:  # a page that this library cannot read is text as before
            return None


def _is_table(table: Any) -> bool:
    """Rather than a box, or lines that frame a page."""
    rows = table.extract()
    filled = sum(1 for row in rows for cell in row if cell and cell.strip())
    return len(rows) > 1 and max(map(len, rows)) > 1 and filled * 2 >= sum(map(len, rows))


def _parts(page: Any, tables: list[Any], tidy: Callable[[str], str]) -> Iterator[str]:
    """From the top of the page on: what is above a table and beside it, then the table."""
    left, top, right, bottom = page.bbox
    for table in sorted(tables, key=lambda table: table.bbox[1]):
        end = min(max(table.bbox[3], top), bottom)
        if end > top:
            band = page.crop((left, top, right, end)).filter(_outside(tables))
            yield tidy(band.extract_text() or "")
            top = end
        yield markdown_table([[tidy(cell or "") for cell in row] for row in table.extract()])
    if bottom > top:
        yield tidy(page.crop((left, top, right, bottom)).filter(_outside(tables)).extract_text() or "")


def _outside(tables: list[Any]) -> Callable[[dict[str, Any]], bool]:
    boxes = [table.bbox for table in tables]

    def is_outside(thing: dict[str, Any]) -> bool:
        x, y = (thing["x0"] + thing["x1"]) / 2, (thing["top"] + thing["bottom"]) / 2
        return not any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in boxes)

    return is_outside
