"""What commands print: JSON, tables and wrapped lines. Chinese is aligned, and control characters are left out."""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Annotated, Any

import typer

from sage.middleware.cli.language.catalogue import _

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
BEGIN, END = "\x02", "\x03"
"""They mark emphasis: control characters, which :func:`plain` and :func:`printable` remove from any text."""
_GAP = "  "
"""Between two columns of a table."""
_NARROWEST = 4
"""The least cells of a column that is made narrower."""
_EMPHASIS = re.compile(f"[{BEGIN}{END}]")
_ON, _OFF = "\x1b[1m", "\x1b[22m"
_PIECE = re.compile(r"\s+|[^\s\u2e80-\ufaff\uff00-\uffef]+|.", re.DOTALL)


def width(text: str) -> int:
    """The terminal cells of the text: a Chinese character takes two, combining ones and marks of emphasis none."""
    return sum(map(_cells, _EMPHASIS.sub("", text)))


def printable(text: str) -> str:
    """The text with a space in place of every control character, which a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def plain(text: object) -> str:
    """The text on one line, without control characters."""
    return " ".join(printable(str(text)).split())


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints aligned columns that fit the terminal; each cell is made :func:`plain`, and ``head`` is translated."""
    cells = [[_(title) for title in head], *([plain(cell) for cell in row] for row in rows)]
    for line in table(cells, shutil.get_terminal_size().columns):
        typer.echo(line)


def table(rows: Sequence[Sequence[str]], columns: int | None = None) -> Iterator[str]:
    """Lines of aligned columns, the first row being their heads.

    Where a row would take more than ``columns`` cells, the widest columns are made narrower, and their texts go on
    below. ``None`` means that rows may be of any length.
    """
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    if columns is not None:
        widths = _narrowed(widths, columns)
    for row in rows:
        texts = [list(wrapped(cell, cells)) for cell, cells in zip(row, widths, strict=True)]
        for line in zip_longest(*texts, fillvalue=""):
            padded = (cell + " " * (cells - width(cell)) for cell, cells in zip(line, widths, strict=True))
            yield _GAP.join(padded).rstrip()


def _narrowed(widths: list[int], columns: int) -> list[int]:
    """The widths of columns that together take at most ``columns`` cells, if each may have its least width."""
    widths = list(widths)
    left = columns - len(_GAP) * (len(widths) - 1)
    while sum(widths) > left:
        widest = max(range(len(widths)), key=lambda column: (widths[column], column))
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return widths


def wrapped(text: str, columns: int) -> Iterator[str]:
    """Lines of at most ``columns`` cells, broken at spaces, or anywhere between Chinese characters."""
    line, used = "", 0
    for piece in _pieces(text, columns):
        cells = width(piece)
        if used + cells > columns and line.strip():
            yield line.rstrip()
            line, used = "", 0
        if piece.isspace() and not line:
            continue
        line += piece
        used += cells
    if line.strip():
        yield line.rstrip()


def emphasised(text: str, *, bold: bool) -> str:
    """The text between marks in bold type; without ``bold`` only the marks are removed."""
    if not bold:
        return _EMPHASIS.sub("", text)
    return text.replace(BEGIN, _ON).replace(END, _OFF)


def _pieces(text: str, columns: int) -> Iterator[str]:
    """Words and characters between which a line may end; a word that is longer than a line comes in parts."""
    for part in re.split(f"([{BEGIN}{END}])", text):
        if _EMPHASIS.fullmatch(part):
            yield part
            continue
        for piece in _PIECE.findall(part):
            yield from (piece[begin : begin + columns] for begin in range(0, len(piece), columns))


def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
