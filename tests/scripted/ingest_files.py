"""Files for the tests of ``sage ingest``, written on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject


def write_pdf(
    path: Path,
    pages: Sequence[str],
    *,
    title: str | None = None,
    outline: Sequence[tuple[str, int, int | None]] = (),
    password: str | None = None,
) -> Path:
    """A PDF with those pages, a line of text each line. ``outline``: name, page from 0, place of its parent."""
    writer = PdfWriter()
    for text in pages:
        _add_page(writer, _drawing(text))
    if title is not None:
        writer.add_metadata({"/Title": title})
    entries: list[object] = []
    for name, page, parent in outline:
        entries.append(
            writer.add_outline_item(title=name, page_number=page, parent=None if parent is None else entries[parent])
        )
    if password is not None:
        writer.encrypt(password, algorithm="AES-256")
    writer.write(path)
    return path


def write_bomb(path: Path, size: int) -> Path:
    """A PDF of a few kilobytes whose one page draws ``size`` bytes of operators."""
    writer = PdfWriter()
    operator = b"(a) Tj "
    _add_page(writer, b"BT /F1 12 Tf 72 720 Td " + operator * (size // len(operator)) + b" ET")
    writer.write(path)
    return path


def _add_page(writer: PdfWriter, drawing: bytes) -> None:
    page = writer.add_blank_page(595, 842)
    font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    named = DictionaryObject({NameObject(key): NameObject(value) for key, value in font.items()})
    fonts = DictionaryObject({NameObject("/F1"): named})
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
    stream = DecodedStreamObject()
    stream.set_data(drawing)
    page[NameObject("/Contents")] = writer._add_object(stream.flate_encode())


def _drawing(text: str) -> bytes:
    lines = [line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)") for line in text.split("\n")]
    return f"BT /F1 12 Tf 14 TL 72 720 Td {' '.join(f'({line}) Tj T*' for line in lines)} ET".encode()
