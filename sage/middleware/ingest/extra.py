"""What reading files needs to be installed, looked for before anything is sent."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from sage.errors import MissingExtra
from sage.middleware.ingest.document import FileKind

_PACKAGES = {
    FileKind.TEXT: ("semantic_text_splitter", "chardet"),
    FileKind.MARKDOWN: ("semantic_text_splitter", "chardet", "markdown_it"),
    FileKind.HTML: ("semantic_text_splitter", "chardet", "selectolax"),
    FileKind.PDF: ("semantic_text_splitter", "pypdf"),
    FileKind.DOCX: ("semantic_text_splitter",),
    FileKind.PPTX: ("semantic_text_splitter",),
    FileKind.SHEET: ("semantic_text_splitter", "python_calamine"),
    FileKind.EPUB: ("semantic_text_splitter", "chardet", "selectolax"),
    FileKind.CSV: ("semantic_text_splitter", "chardet"),
    FileKind.NOTEBOOK: ("semantic_text_splitter", "chardet", "markdown_it"),
    FileKind.CODE: ("semantic_text_splitter", "chardet"),
    FileKind.JSONL: (),  # its texts are stored as they are
}
"""The import names of the packages that files of a kind need."""


def check_extra(kinds: Iterable[FileKind]) -> None:
    """Raises :class:`MissingExtra` if a package is missing that files of these kinds need."""
    for package in sorted({package for kind in kinds for package in _PACKAGES[kind]}):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("sage ingest", "ingest")
