"""Tables as files: spreadsheets (``.xlsx``, ``.xls``, ``.ods``), and values between commas (``.csv``, ``.tsv``).

Spreadsheets are read by python-calamine, which is Rust: formulas are there with their last values, macros never run.
"""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sage.errors import MissingExtra
from sage.middleware.ingest.document import ParsedDocument, TextSection, Unreadable, one_line
from sage.middleware.ingest.formats.archives import check_password, open_archive
from sage.middleware.ingest.tables import markdown_table

_SAMPLE = 65_536
_DELIMITERS = ",;\t|"
_LARGEST_FIELD = 2**24


def load_calamine() -> Any:
    """The module; raises :class:`MissingExtra`."""
    try:
        import python_calamine
    except ImportError as exc:
        raise MissingExtra("sage ingest of spreadsheets", "ingest") from exc
    return python_calamine


def parse_sheets(path: Path) -> ParsedDocument:
    """One section a sheet that is shown, whose first row is its header. Raises :class:`Unreadable`."""
    calamine = load_calamine()
    check_password(path)
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with open_archive(path, "spreadsheet"):
            pass  # so that what is wrong with the archive is told
    try:
        book = calamine.CalamineWorkbook.from_path(str(path))
        shown = [sheet.name for sheet in book.sheets_metadata if sheet.visible == calamine.SheetVisibleEnum.Visible]
        sections = [TextSection((name,), markdown_table(_rows(book.get_sheet_by_name(name)))) for name in shown]
    except calamine.PasswordError:
        raise Unreadable("is encrypted: it opens with a password only") from None
    except (calamine.CalamineError, OSError) as exc:
        raise Unreadable(f"cannot be read as a spreadsheet: {one_line(str(exc))}") from None
    return ParsedDocument([section for section in sections if section.text], markdown=True)


def parse_csv(text: str) -> ParsedDocument:
    """One section, whose first row is the header. Raises :class:`Unreadable`."""
    csv.field_size_limit(_LARGEST_FIELD)
    try:
        dialect: Any = csv.Sniffer().sniff(text[:_SAMPLE], _DELIMITERS)
    except csv.Error:  # one column, or nothing to tell by
        dialect = csv.excel_tab if "\t" in text.partition("\n")[0] else csv.excel
    try:
        table = markdown_table(csv.reader(io.StringIO(text, newline=""), dialect))
    except csv.Error as exc:
        raise Unreadable(f"cannot be read as CSV: {exc}") from None
    return ParsedDocument([TextSection((), table)] if table else [], markdown=True)


def _rows(sheet: Any) -> Iterator[list[str]]:
    for row in sheet.iter_rows():
        yield [_shown(value) for value in row]


def _shown(value: Any) -> str:
    """A cell about as the program shows it."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ") if value.time() != datetime.time() else value.date().isoformat()
    return str(value)
