"""Rows as CSV that spreadsheets open without running anything in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a cell begins that spreadsheets take for a formula, also in full width (OWASP, *CSV injection*)."""


def csv_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A head of ``columns`` and a line for each row (RFC 4180). A text that could be a formula gets an apostrophe
    before it; numbers stay numbers, truth values are ``true`` and ``false``, and what is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    text = ";".join(map(str, value)) if isinstance(value, list) else str(value)
    return "'" + text if text.startswith(_FORMULA) else text
