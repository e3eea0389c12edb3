"""Tables as lines of Markdown, and long ones in parts that each begin with the header."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

_TABLE = re.compile(r"(?m)^\|.*\|\n\|(?: *:?-+:? *\|)+(?:\n\|.*\|(?=\n|\Z))*")
_BETWEEN = re.compile(r"(?<!\\)\|")
_RULE = "---|"

Row = Sequence[str]


def markdown_table(rows: Iterable[Row]) -> str:
    """The rows as a table, whose header is the first that is not empty; ``""`` for no rows. Columns in which nothing
    stands are left out."""
    filled = [cells for row in rows if any(cells := [_cell(cell) for cell in row])]
    width = max(map(len, filled), default=0)
    used = [column for column in range(width) if any(column < len(row) and row[column] for row in filled)]
    lines = ["| " + " | ".join(row[column] if column < len(row) else "" for column in used) + " |" for row in filled]
    return "\n".join([lines[0], f"|{_RULE * len(used)}", *lines[1:]]) if lines else ""


def table_parts(
    text: str, size: int, measure: Callable[[str], int], *, apart: bool = False
) -> Iterator[tuple[int, str, bool]]:
    """``text`` as ``(offset in characters, part, is_table)``. What is not a table, and tables that fit into ``size``,
    stay in one part with what is around them (``apart``: each table is a part); of a larger one each part is a table
    with the header, of at most ``size`` but for a row that is larger alone, which becomes a line ``header: cell`` for
    each cell."""
    start = 0
    for table in _TABLE.finditer(text):
        if measure(table[0]) <= size and not apart:
            continue
        if text[start : table.start()].strip():
            yield start, text[start : table.start()], False
        yield from (
            (table.start() + offset, part, is_table) for offset, part, is_table in _parts(table[0], size, measure)
        )
        start = table.end()
    if text[start:].strip() or not start:
        yield start, text[start:], False


def _parts(table: str, size: int, measure: Callable[[str], int]) -> Iterator[tuple[int, str, bool]]:
    if measure(table) <= size:
        yield 0, table, True
        return
    header, rule, *rows = table.split("\n")
    if not rows:
        yield 0, " ".join(_cells(header)), False
        return
    head = f"{header}\n{rule}"
    of_head = measure(head)
    offset = len(head) + 1
    begin, lines, used = 0, [head], of_head
    for row in rows:
        more = measure(row) + 1
        if used + more > size and len(lines) > 1:
            yield begin, "\n".join(lines), True
            begin, lines, used = offset, [head], of_head
        if used + more > size:
            yield offset, _as_lines(header, row), False
            begin = offset + len(row) + 1
        else:
            lines.append(row)
            used += more
        offset += len(row) + 1
    if len(lines) > 1:
        yield begin, "\n".join(lines), True


def _as_lines(header: str, row: str) -> str:
    names, cells = _cells(header), _cells(row)
    pairs = [(names[index] if index < len(names) else "", cell) for index, cell in enumerate(cells) if cell]
    return "\n\n".join(f"{name}: {cell}" if name else cell for name, cell in pairs)


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _BETWEEN.split(line)[1:-1]]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
