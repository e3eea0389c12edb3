"""What commands print: JSON, tables and wrapped lines. Chinese is aligned, and control characters are left out."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Annotated, Any

import typer

from sage.middleware.cli.language.catalogue import _

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER", min=0, help="How much chance decides; 0 always gives the likeliest answer, 1 is usual."
    ),
]
"""The option of the commands that ask a model."""
BEGIN, END = "\x02", "\x03"
"""They mark emphasis: control characters, which :func:`plain` and :func:`printable` remove from any text."""
_GAP = "  "
"""Between two columns of a table."""
_NARROWEST, _READABLE, _SHORT_WORD = 4, 8, 13
"""The least cells of a column that is made narrower; the least in which text is still read well; and the longest word
that such a column keeps whole."""
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


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, optional: Collection[str] = ()) -> None:
    """Prints aligned columns that fit the terminal; each cell is made :func:`plain`, and ``head`` is translated. The
    ``optional`` columns are there where a row has something in them.

    What a program reads from a pipe has one line a row, unless ``COLUMNS`` says how many cells there are.
    """
    rows = list(rows)
    shown = [index for index, title in enumerate(head) if title not in optional or any(row[index] for row in rows)]
    cells = [[_(head[index]) for index in shown], *([plain(row[index]) for index in shown] for row in rows)]
    is_bounded = sys.stdout.isatty() or bool(os.environ.get("COLUMNS"))
    for line in table(cells, shutil.get_terminal_size().columns if is_bounded else None):
        typer.echo(line)


def table(rows: Sequence[Sequence[str]], columns: int | None = None) -> Iterator[str]:
    """Lines of aligned columns, the first row being their heads.

    Where a row would take more than ``columns`` cells, the widest columns are made narrower, and their texts go on
    below. ``None`` means that rows may be of any length.
    """
    widths = _narrowed(list(zip(*rows, strict=True)), sys.maxsize if columns is None else columns)
    for row in rows:
        texts = [list(wrapped(cell, cells)) for cell, cells in zip(row, widths, strict=True)]
        for line in zip_longest(*texts, fillvalue=""):
            padded = (cell + " " * (cells - width(cell)) for cell, cells in zip(line, widths, strict=True))
            yield _GAP.join(padded).rstrip()


def _narrowed(columns: Sequence[Sequence[str]], cells: int) -> list[int]:
    """The widths of ``columns`` that together take at most ``cells``, if that is possible.

    The widest give way first: down to their words, as long as they are short (an id, a date), and then below that. The
    first column, which names the row, gives way last.
    """
    widths = [max(map(width, column)) for column in columns]
    words = [max((width(word) for cell in column for word in _PIECE.findall(cell)), default=0) for column in columns]
    readable = [max(_READABLE, word if word <= _SHORT_WORD else 0) for word in words]
    left = cells - len(_GAP) * (len(widths) - 1)
    first = [widths[0], *[_NARROWEST] * (len(widths) - 1)]
    for floors in (readable, first, [_NARROWEST] * len(widths)):
        while sum(widths) > left:
            wide = [column for column, floor in enumerate(floors) if widths[column] > floor]
            if not wide:
                break
            widths[max(wide, key=lambda column: (widths[column], column))] -= 1
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
    """Words and characters between which a line may end; a word that is longer than a line comes in parts,
    which end with a sign such as ``/`` where there is one."""
    for part in re.split(f"([{BEGIN}{END}])", text):
        if _EMPHASIS.fullmatch(part):
            yield part
            continue
        for piece in _PIECE.findall(part):
            while len(piece) > columns:
                cut = max(piece.rfind(sign, 0, columns) for sign in ":/-_.,") + 1 or columns
                yield piece[:cut]
                piece = piece[cut:]
            yield piece


def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
