"""Office files, books, tables, notebooks and code: written by their vendors' own libraries, and by nobody's friends."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import docx
import fpdf
import openpyxl
import pptx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from ingest_files import write_pdf
from pptx.util import Inches

from sage.middleware.ingest.chunks import chunks, measure
from sage.middleware.ingest.document import FileKind, ParsedDocument, TextSection, Unreadable
from sage.middleware.ingest.files import kind_of
from sage.middleware.ingest.parsing import Parser, ParsingLimits
from sage.middleware.ingest.reading import Order, parse
from sage.middleware.ingest.tables import markdown_table, table_parts

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000"
    "05000157ea1f3d0000000049454e44ae426082"
)


def read(path: Path, kind: FileKind | None = None) -> ParsedDocument:
    """As its name and its first bytes tell."""
    with path.open("rb") as file:
        kind = kind or kind_of(path.name, file.read(8192))
    assert kind is not None
    return parse(path, kind)


def sections(document: ParsedDocument) -> list[tuple[tuple[str, ...], str]]:
    return [(section.heading, section.text) for section in document.sections]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# Tables


def test_every_chunk_of_a_long_table_has_its_header() -> None:
    rows = [["Name", "Town", "Note"], *([f"n{number}", f"town {number}", "x" * 40] for number in range(100))]
    text = f"Before.\n\n{markdown_table(rows)}\n\nBehind."
    document = ParsedDocument([TextSection((), text)], markdown=True)
    made = [chunk.text for chunk in chunks(document, 400, 50)]
    tables = [text for text in made if text.startswith("|")]
    assert len(tables) > 10
    assert all(text.startswith("| Name | Town | Note |\n|---|---|---|\n") for text in tables)
    assert all(measure(text) <= 400 for text in made)
    found = [line for text in tables for line in text.split("\n")[2:]]
    assert found == [f"| n{number} | town {number} | {'x' * 40} |" for number in range(100)]
    assert made[0].startswith("Before.")
    assert made[-1].startswith("Behind.")


def test_a_row_that_is_larger_than_a_chunk_becomes_lines_that_name_their_columns() -> None:
    table = markdown_table([["id", "text"], ["1", "short"], ["2", "word " * 200], ["3", "end"]])
    parts = list(table_parts(table, 300, len))
    assert [is_table for _, _, is_table in parts] == [True, False, True]
    assert parts[1][1].startswith("id: 2\n\ntext: word word")
    assert [table[offset:][:5] for offset, _, _ in parts[1:]] == ["| 2 |", "| 3 |"]


def test_a_table_that_fits_stays_with_what_is_around_it() -> None:
    text = f"Before.\n\n{markdown_table([['a', 'b'], ['1', '2']])}\n\nBehind."
    assert list(table_parts(text, 900, len)) == [(0, text, False)]


def test_empty_rows_and_columns_are_left_out_and_bars_are_no_bounds() -> None:
    assert (
        markdown_table([["", ""], ["a|b", "", "c\nd"], ["", "", ""], ["1"]]) == "| a\\|b | c d |\n|---|---|\n| 1 |  |"
    )
    assert markdown_table([]) == ""


def test_pictures_of_a_page_have_their_alternative_texts(tmp_path: Path) -> None:
    page = write(tmp_path / "a.html", '<p>See <img src="x.png" alt="a red  fox"> and <img src="y.png"> here.</p>')
    assert sections(read(page)) == [((), "See ![a red fox] and here.")]


# Word


def test_a_word_document(tmp_path: Path) -> None:
    made = docx.Document()
    made.core_properties.title = "The Report"
    made.add_paragraph("Before all.")
    made.add_heading("Install", 1)
    made.add_paragraph("First words.")
    made.add_heading("On Linux", 2)
    made.add_paragraph("one", style="List Bullet")
    made.add_paragraph("two", style="List Bullet")
    table = made.add_table(rows=2, cols=2)
    for row, cells in zip(table.rows, (("Name", "Size"), ("a|b", "10")), strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    made.add_picture(io.BytesIO(PIXEL))
    made.inline_shapes[0]._inline.docPr.set("descr", "a diagram of it")
    changed = made.add_paragraph("kept ")
    changed._p.append(parse_xml(f"<w:del {nsdecls('w')}><w:r><w:delText>gone</w:delText></w:r></w:del>"))
    changed._p.append(parse_xml(f"<w:ins {nsdecls('w')}><w:r><w:t>added</w:t></w:r></w:ins>"))
    made.save(tmp_path / "a.docx")
    document = read(tmp_path / "a.docx")
    assert document.title == "The Report"
    assert sections(document) == [
        ((), "Before all."),
        (("Install",), "First words."),
        (
            ("Install", "On Linux"),
            "- one\n- two\n\n| Name | Size |\n|---|---|\n| a\\|b | 10 |\n\n![a diagram of it]\n\nkept added",
        ),
    ]


def test_a_word_document_without_a_title_property_has_that_of_its_style(tmp_path: Path) -> None:
    made = docx.Document()
    made.add_heading("Big Title", 0)
    made.add_paragraph("words")
    made.save(tmp_path / "a.docx")
    assert read(tmp_path / "a.docx").title == "Big Title"


# PowerPoint


def test_a_presentation(tmp_path: Path) -> None:
    made = pptx.Presentation()
    first = made.slides.add_slide(made.slide_layouts[1])
    first.shapes.title.text = "Results"
    first.placeholders[1].text = "up by half\ndown by none"
    first.notes_slide.notes_text_frame.text = "say it slowly"
    second = made.slides.add_slide(made.slide_layouts[6])
    table = second.shapes.add_table(2, 2, Inches(1), Inches(1), Inches(4), Inches(1)).table
    for row, cells in enumerate((("Name", "Size"), ("a", "10"))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    picture = second.shapes.add_picture(io.BytesIO(PIXEL), 0, 0)
    picture._element.nvPicPr.cNvPr.set("descr", "a red fox")
    made.core_properties.title = "Talk"
    made.save(tmp_path / "a.pptx")
    document = read(tmp_path / "a.pptx")
    assert document.title == "Talk"
    assert sections(document) == [
        (("Results",), "up by half\ndown by none\n\nsay it slowly"),
        ((), "| Name | Size |\n|---|---|\n| a | 10 |\n\n![a red fox]"),
    ]
    assert [chunk.page for chunk in chunks(document)] == [1, 2]


# Spreadsheets and CSV


def test_a_spreadsheet(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title = "Prices"
    for row in (["", "", ""], ["Item", "Price", "Since"], ["pen", 3.0, date(2024, 5, 6)], ["ink", 4.5, True]):
        book.active.append(row)
    hidden = book.create_sheet("Hidden")
    hidden.append(["secret"])
    hidden.sheet_state = "hidden"
    book.create_sheet("Empty")
    book.save(tmp_path / "a.xlsx")
    assert sections(read(tmp_path / "a.xlsx")) == [
        (("Prices",), "| Item | Price | Since |\n|---|---|---|\n| pen | 3 | 2024-05-06 |\n| ink | 4.5 | TRUE |")
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv(tmp_path: Path, delimiter: str) -> None:
    rows = [["name", "note"], ["a", f'"x{delimiter}y"'], ["b", '"two\nlines"']]
    text = "\n".join(delimiter.join(row) for row in rows)
    path = write(tmp_path / "a.csv", text.encode("utf-8-sig"))
    assert sections(read(path)) == [
        ((), f"| name | note |\n|---|---|\n| a | {' '.join(f'x{delimiter}y'.split())} |\n| b | two lines |")
    ]


def test_csv_of_one_column_and_of_another_encoding(tmp_path: Path) -> None:
    assert sections(read(write(tmp_path / "a.csv", "名称\n上班\n通勤\n".encode("gb18030")))) == [
        ((), "| 名称 |\n|---|\n| 上班 |\n| 通勤 |")
    ]
    assert sections(read(write(tmp_path / "b.csv", ""), FileKind.CSV)) == []


# Tables of PDF files


def test_tables_of_a_pdf_keep_their_header(tmp_path: Path) -> None:
    made = fpdf.FPDF()
    made.add_page()
    made.set_font("Helvetica", size=12)
    made.cell(text="Before the table.", new_x="LMARGIN", new_y="NEXT")
    with made.table() as table:
        for row in [("Name", "Town"), *((f"n{number}", f"town {number}") for number in range(50))]:
            table.row(row)
    made.cell(text="Behind the table.")
    made.add_page()
    made.cell(text="No table here.")
    made.output(str(tmp_path / "a.pdf"))
    document = read(tmp_path / "a.pdf")
    ((_, text),) = sections(document)
    assert text.startswith("Before the table.\n\n| Name | Town |\n|---|---|\n| n0 | town 0 |\n")
    assert text.endswith("Behind the table.\n\nNo table here.")
    made_chunks = list(chunks(document, 300, 0))
    tables = [chunk.text for chunk in made_chunks if chunk.text.startswith("|")]
    assert len(tables) == 4
    assert [chunk.page for chunk in made_chunks] == sorted(chunk.page or 0 for chunk in made_chunks)
    assert made_chunks[-1].page == 2
    rows = [line for table in tables for line in table.split("\n") if line.startswith("| n")]
    assert rows == [f"| n{number} | town {number} |" for number in range(50)]
    # fpdf2 repeats the header on the second page, and so does each chunk.
    assert all(table.startswith("| Name | Town |\n|---|---|\n") for table in tables)


# Books, notebooks, code


def book(path: Path, **parts: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>',
        )
        archive.writestr(
            "OEBPS/content.opf",
            '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
            "<dc:title>The Book</dc:title><dc:language>en-GB</dc:language></metadata><manifest>"
            '<item id="a" href="a%20b.xhtml" media-type="application/xhtml+xml"/>'
            '<item id="b" href="b.xhtml" media-type="application/xhtml+xml"/></manifest>'
            '<spine><itemref idref="b"/><itemref idref="a"/><itemref idref="none"/></spine></package>',
        )
        archive.writestr("OEBPS/b.xhtml", "<html><body><h1>One</h1><p>first words</p></body></html>")
        archive.writestr("OEBPS/a b.xhtml", '<html><body><h1>Two</h1><p>then <img alt="a map"/></p></body></html>')
        for name, content in parts.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


def test_a_book_is_read_in_the_order_of_its_chapters(tmp_path: Path) -> None:
    for name in ("a.epub", "renamed.bin"):
        document = read(book(tmp_path / name))
        assert (document.title, document.metadata) == ("The Book", {"lang": "en-gb"})
        assert sections(document) == [(("One",), "first words"), (("Two",), "then ![a map]")]


def test_a_book_with_drm_is_told(tmp_path: Path) -> None:
    method = '<e xmlns="x"><EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/></e>'
    with pytest.raises(Unreadable, match="is encrypted"):
        read(book(tmp_path / "a.epub", **{"META-INF__encryption.xml": method}))


def test_a_notebook(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Analysis\n", "\n", "Why."]},
        {
            "cell_type": "code",
            "source": "print(1)\n# no heading",
            "outputs": [{"output_type": "stream", "text": ["1\n"]}, {"data": {"image/png": "AAAA"}}],
        },
        {"cell_type": "code", "source": "x", "outputs": [{"data": {"text/plain": "long " * 1000}}]},
        "nonsense",
    ]
    metadata = {"kernelspec": {"language": "python"}}
    path = write(tmp_path / "a.ipynb", json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4}))
    document = read(path)
    assert document.title == "Analysis"
    assert document.metadata["language"] == "python"
    ((heading, text),) = sections(document)
    assert heading == ("Analysis",)
    assert text.startswith("Why.\n\n```\nprint(1)\n# no heading\n```\n\n```\n1\n```\n\n```\nx\n```")
    assert len(text) < 2200
    for content in ("[]", "{", "null"):
        with pytest.raises(Unreadable, match="is no notebook"):
            read(write(path, content))


PYTHON = '''"""Doc."""
import os

# about it
@decorated
def first(a):
    def inner():
        pass
    return a


class Thing:
    """A thing."""

    def method(self):
        return 1

    async def other(self):
        return 2


LAST = 1
'''


def test_code_has_a_section_for_each_definition(tmp_path: Path) -> None:
    document = read(write(tmp_path / "a.py", PYTHON))
    assert document.metadata == {"language": "python"}
    assert [section.heading for section in document.sections] == [
        (),
        ("first",),
        ("Thing",),
        ("Thing", "method"),
        ("Thing", "other"),
    ]
    assert document.sections[1].text.startswith("# about it\n@decorated\ndef first(a):\n    def inner():")
    assert "\n".join(section.text for section in document.sections).split() == PYTHON.split()


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.js", "export async function run(a) {}\nconst f = (x) => x;\nclass A {\n  m() {}\n}\n", ["run", "f", "A"]),
        ("a.go", "package a\n\n// Run runs.\nfunc (s *Server) Run() {}\ntype x int\n", ["Run"]),
        ("a.rs", "pub(crate) struct P;\nimpl P {\n    pub fn go(&self) {}\n}\n", ["P", "P", "P > go"]),
        ("a.java", "public final class A {\n    int x;\n}\n", ["A"]),
        ("a.c", "static int add(int a,\n  int b)\n{\n  return a;\n}\nint x;\n", ["add"]),
        ("a.sh", "function go {\n ls\n}\n", ["go"]),
    ],
)
def test_definitions_of_other_languages(tmp_path: Path, name: str, text: str, names: list[str]) -> None:
    document = read(write(tmp_path / name, text))
    assert [" > ".join(section.heading) for section in document.sections if section.heading] == names
    assert " ".join(section.text for section in document.sections).split() == text.split()


# What is no document, or a hostile one


def word(path: Path, body: bytes, **more: bytes) -> Path:
    """A Word file with this main part."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "_rels/.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="a" '
            'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
            'Target="word/document.xml"/></Relationships>',
        )
        archive.writestr("word/document.xml", body)
        for name, content in more.items():
            archive.writestr(name, content)
    return path


def encrypted_entry(path: Path) -> Path:
    """The flag of a password on every entry."""
    word(path, b"<x/>")
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(mark)
        while start >= 0:
            struct.pack_into("<H", content, start + at, 1)
            start = content.find(mark, start + 4)
    path.write_bytes(content)
    return path


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000)
ENTITIES = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><x>&b;</x>'


@pytest.mark.parametrize("ending", ["docx", "pptx", "xlsx", "epub"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (OLE + "EncryptedPackage".encode("utf-16-le"), "is encrypted: it opens with a password only"),
        (b"PK\x03\x04 cut off", "or is cut off"),
        (b"plain text", "."),
        (b"", "."),
    ],
)
def test_what_is_no_archive(tmp_path: Path, ending: str, content: bytes, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read(write(tmp_path / f"a.{ending}", content))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: word(path, ENTITIES), "has a document type"),
        (lambda path: word(path, b"<x>"), "is not XML"),
        (lambda path: word(path, b"<x/>"), "it has no text"),
        (encrypted_entry, "is encrypted"),
        pytest.param(
            lambda path: word(path, b"x" * (300 * 2**20)), "has a part of more than 256 MiB", marks=pytest.mark.slow
        ),
    ],
)
def test_hostile_word_files(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read(make(tmp_path / "a.docx"))


def test_the_wrong_ending_is_seen_through(tmp_path: Path) -> None:
    made = docx.Document()
    made.add_paragraph("words")
    made.save(tmp_path / "a.bin")
    assert sections(read(tmp_path / "a.bin")) == [((), "words")]
    assert sections(read(write_pdf(tmp_path / "a.docx", ["a page"]))) == [((), "a page")]
    assert kind_of("a.zip", b"PK\x03\x04 other things") is None


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    with Parser(ParsingLimits()) as running:
        yield running


@pytest.mark.slow
def test_bombs_cost_themselves_only_and_large_sheets_are_read(tmp_path: Path, parser: Parser) -> None:
    deep = word(tmp_path / "deep.docx", b"<a>" * 200_000 + b"</a>" * 200_000)
    wide = word(tmp_path / "wide.docx", b"<a>" + b"<b/>" * (40 * 2**20) + b"</a>")
    for path in (deep, wide):
        with pytest.raises(Unreadable):
            list(parser.records(Order(str(path), FileKind.DOCX)))
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("Large")
    rows = 100_000 if os.environ.get("SAGE_TEST_FULL") else 30_000
    for number in range(rows):
        sheet.append([number, f"name {number}"])
    book.save(tmp_path / "large.xlsx")
    head, *records = parser.records(Order(str(tmp_path / "large.xlsx"), FileKind.SHEET))
    assert head == {"title": None, "metadata": {}}
    assert len(records) > rows // 50
    assert all(record["text"].startswith("Large\n\n| 0 | name 0 |\n|---|---|\n| ") for record in records)
    assert sum(record["text"].count("\n| ") - 1 for record in records) == rows - 1
