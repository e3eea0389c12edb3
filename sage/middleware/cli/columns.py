"""Text on a terminal: columns and lines that come out even with Chinese, and without what a terminal would obey."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

BEGIN, END = "\x02", "\x03"
"""Marks of emphasis: characters that no text which was made plain holds."""
_EMPHASIS = re.compile(f"[{BEGIN}{END}]")
_ON, _OFF = "\x1b[1m", "\x1b[22m"
_PIECE = re.compile(r"\s+|[^\s\u2e80-\ufaff\uff00-\uffef]+|.", re.DOTALL)


def width(text: str) -> int:
    """Cells that the text takes: Chinese characters two, combining ones none, marks of emphasis none."""
    return sum(map(_cells, _EMPHASIS.sub("", text)))


def printable(text: str) -> str:
    """With a space for every character that a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def plain(text: object) -> str:
    """One line of what can be printed."""
    return " ".join(printable(str(text)).split())


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines with their columns one under the other."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell + " " * (room - width(cell)) for cell, room in zip(row, widths, strict=True)).rstrip()


def wrapped(text: str, room: int) -> Iterator[str]:
    """Lines of at most ``room`` cells, broken at spaces, or anywhere between Chinese characters."""
    line, used = "", 0
    for piece in _pieces(text, room):
        cells = width(piece)
        if used + cells > room and line.strip():
            yield line.rstrip()
            line, used = "", 0
        if piece.isspace() and not line:
            continue
        line += piece
        used += cells
    if line.strip():
        yield line.rstrip()


def emphasised(text: str, *, bold: bool) -> str:
    """What stands between marks in bold type, or the marks left out."""
    if not bold:
        return _EMPHASIS.sub("", text)
    return text.replace(BEGIN, _ON).replace(END, _OFF)


def _pieces(text: str, room: int) -> Iterator[str]:
    """Words and characters between which a line may end; what is longer than a line in parts. Marks stay whole."""
    for mark in re.split(f"([{BEGIN}{END}])", text):
        if _EMPHASIS.fullmatch(mark):
            yield mark
            continue
        for piece in _PIECE.findall(mark):
            yield from (piece[begin : begin + room] for begin in range(0, len(piece), room))


def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
