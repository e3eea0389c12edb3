"""Files parsed in a child with limits: their sections, titles and pages; what cannot be read costs itself only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingest_files import write_bomb, write_pdf

from sage.middleware.ingest.decoding import decode, is_binary
from sage.middleware.ingest.document import FileKind, Unreadable
from sage.middleware.ingest.parsing import Parser, ParsingLimits
from sage.middleware.ingest.reading import Order, parse

pytestmark = pytest.mark.slow  # many processes


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def sections(path: Path, kind: FileKind, encoding: str | None = None) -> list[tuple[tuple[str, ...], str]]:
    return [(section.heading, section.text) for section in parse(path, kind, encoding).sections]


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    with Parser(ParsingLimits()) as running:
        yield running


# Markdown

MARKDOWN = """---
title: The Guide
tags: [search, 检索]
date: 2024-05-06
draft: false
nested: {a: 1}
---
Before all.

# Install `sage`

First words.

```sh
# no heading
pip install it
```

Setext *too*
------------
Under it.

> # quoted, no heading

# Empty

# 中文

正文。
"""


def test_markdown_sections_front_matter_and_code(tmp_path: Path) -> None:
    document = parse(write(tmp_path / "a.md", MARKDOWN), FileKind.MARKDOWN)
    assert document.title == "The Guide"
    assert document.metadata == {"tags": ["search", "检索"], "date": "2024-05-06", "draft": False}
    assert [(section.heading, section.text) for section in document.sections] == [
        ((), "Before all."),
        (("Install sage",), "First words.\n\n```sh\n# no heading\npip install it\n```"),
        (("Install sage", "Setext too"), "Under it.\n\n> # quoted, no heading"),
        (("Empty",), ""),
        (("中文",), "正文。"),
    ]


def test_the_only_first_heading_is_the_title(tmp_path: Path) -> None:
    assert parse(write(tmp_path / "a.md", "# One\n\n## Two\n\ntext"), FileKind.MARKDOWN).title == "One"
    assert parse(write(tmp_path / "b.md", "# One\n\na\n\n# Two\n\ntext"), FileKind.MARKDOWN).title is None


@pytest.mark.parametrize("front", ["---\n- a list\n---\n", "---\na: [1\n---\n", "---\nnever ends\n"])
def test_what_is_no_front_matter_stays_text(tmp_path: Path, front: str) -> None:
    document = parse(write(tmp_path / "a.md", f"{front}rest"), FileKind.MARKDOWN)
    assert document.metadata == {}
    assert "rest" in "".join(section.text for section in document.sections)


def test_an_alias_bomb_in_front_matter_is_cut(tmp_path: Path, parser: Parser) -> None:
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 9))
    path = write(tmp_path / "a.md", f"---\nl0: &l0 [x, x]\n{levels}\ntitle: T\n---\nbody")
    head, chunk = parser.records(Order(str(path), FileKind.MARKDOWN))
    assert head["title"] == "T"
    assert head["metadata"]["l0"] == ["x", "x"]
    assert len(orjson.dumps(head)) < 1000
    assert chunk == {"text": "body"}


# HTML

HTML = """<!doctype html><html lang="zh-CN"><head><title> A  page </title><style>p{}</style></head><body>
<nav>menu</nav><header><a href=/>logo</a></header>
<main><h1>Top</h1><p>one <b>two</b>
three<br>four</p><script>evil()</script><p hidden>hidden</p>
<ul><li>a<ul><li>b</li></ul></li><li><p>c</p></li></ul>
<h2>Code</h2><pre><code>if x:
    y()</code></pre>
<table><tr><th>k</th><th>v</th></tr><tr><td>1</td><td>2|3</td></tr></table>
<h2>结束</h2><p>最后。</p></main><footer>foot</footer></body></html>"""


def test_html_main_text_with_headings(tmp_path: Path) -> None:
    document = parse(write(tmp_path / "a.html", HTML), FileKind.HTML)
    assert (document.title, document.metadata) == ("A page", {"lang": "zh-cn"})
    assert [(section.heading, section.text) for section in document.sections] == [
        (("Top",), "one two three\nfour\n\n- a\n  - b\n- c"),
        (("Top", "Code"), "```\nif x:\n    y()\n```\n\n| k | v |\n|---|---|\n| 1 | 2\\|3 |"),
        (("Top", "结束"), "最后。"),
    ]


def test_html_without_main_or_headings(tmp_path: Path) -> None:
    page = "<title>T</title><body><header>site</header><div>a<div>b</div>c</div><aside>ad</aside>"
    assert sections(write(tmp_path / "a.html", page), FileKind.HTML) == [((), "a\n\nb\n\nc")]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            "<form action=x><input><p>All in a form</p><label>Name</label><button>Go</button></form>",
            "All in a form Name",
        ),
        ("<form><header>menu</header><main><p>Page</p></main></form>", "Page"),
        ("<form><div><form><p>deep</p></form></div></form>", "deep"),
        ("<p>Page</p><form><p>You agree to this.</p></form>", "Page You agree to this."),
        ("<p>Page</p><form><label>Search</label><input><select><option>all</select><button>Go</button></form>", "Page"),
        ("<form role=search><label>Find</label></form><p>Page</p>", "Page"),
        ("<form><label>Nothing else</label></form>", "Nothing else"),
        ("<nav>Only navigation</nav>", "Only navigation"),
        ("<footer><p>Only a footer</p></footer>", "Only a footer"),
        ("<header>Only a header</header>", "Only a header"),
        ("<aside>a</aside><p>b</p>", "b"),
        ('<p>a</p><p style="display:none">b</p>', "a"),
        ('<p>a</p><p style="color: red; DISPLAY : None !important">b</p>', "a"),
        ('<p>a</p><p style="display:none; display:block">b</p>', "a b"),
        ('<p>a</p><p style="border-style:none;display:inline">b</p>', "a b"),
        ('<p>a</p><div style="visibility:hidden"><p>b</p></div>', "a"),
        ('<p>a</p><p style="content-visibility: hidden">b</p>', "a"),
        ("<p>a</p><p hidden>b</p><p hidden=until-found>c</p>", "a c"),
        ("<p>a</p><dialog>b</dialog><dialog open>c</dialog>", "a c"),
        ("<p>a</p><span aria-hidden=true>b</span>", "a"),
        ("<div aria-hidden=true><p>behind a dialog</p></div>", "behind a dialog"),
        ("<main aria-hidden=true><p>x</p></main><nav>y</nav>", "x"),
        ('<p style="display:none">b</p><script>c()</script><noscript>d</noscript>', ""),
    ],
)
def test_html_takes_what_a_browser_shows(tmp_path: Path, body: str, text: str) -> None:
    shown = sections(write(tmp_path / "a.html", f"<body>{body}</body>"), FileKind.HTML)
    assert " ".join(" ".join(part.split()) for _, part in shown) == text


@pytest.mark.parametrize(
    "body", ['<body style="display:none"><p>x</p>', "<body hidden><p>x</p>", "<html hidden><p>x</p>"]
)
def test_html_that_a_script_would_show_as_a_whole(tmp_path: Path, body: str) -> None:
    assert sections(write(tmp_path / "a.html", body), FileKind.HTML) == [((), "x")]


def test_html_says_its_encoding(tmp_path: Path) -> None:
    page = '<html><head><meta charset="gb2312"></head><body><p>中文网页</p></body></html>'
    assert sections(write(tmp_path / "a.html", page.encode("gb18030")), FileKind.HTML) == [((), "中文网页")]
    page = page.replace("gb2312", "shift_jis").replace("中文网页", "日本語のページ")
    assert sections(write(tmp_path / "b.html", page.encode("shift_jis")), FileKind.HTML) == [((), "日本語のページ")]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("big5", "這是一個繁體中文的測試文件，內容是搜尋引擎。"),
        ("cp932", "検索エンジンは文書を索引にして返します。"),
        ("euc_kr", "안녕하세요, 한국어 문서입니다."),
        ("cp1251", "Привет, мир! Это документ."),
        ("cp1250", "Vyhledávač indexuje dokumenty, příliš žluťoučký kůň."),
        ("cp1254", "Toplantı İstanbul'da yapıldı, bugün güneşli."),
    ],
)
def test_html_that_does_not_say_its_encoding(tmp_path: Path, encoding: str, text: str) -> None:
    english = "<div class=row><span>Plain English words in a page.</span></div>" * 30
    page = f"<html><head><title>Page</title></head><body><p>{text}</p>{english}</body></html>"
    assert sections(write(tmp_path / "a.html", page.encode(encoding)), FileKind.HTML)[0][1].startswith(text)


# PDF


def test_pdf_pages_title_and_outline(tmp_path: Path, parser: Parser) -> None:
    pages = ["Cover words", "An exam-\nple of one", "", "Deep text", "Last text"]
    outline = [("Part one", 1, None), ("Chapter", 3, 0), ("Part two", 4, None)]
    path = write_pdf(tmp_path / "a.pdf", pages, title="A Book", outline=outline)
    head, *chunks = parser.records(Order(str(path), FileKind.PDF))
    assert head == {"title": "A Book", "metadata": {}}
    assert chunks == [
        {"text": "Cover words", "page": 1},
        {"text": "Part one\n\nAn example of one", "page": 2, "heading": ["Part one"]},
        {"text": "Part one > Chapter\n\nDeep text", "page": 4, "heading": ["Part one", "Chapter"]},
        {"text": "Part two\n\nLast text", "page": 5, "heading": ["Part two"]},
    ]


def test_a_chunk_of_a_pdf_names_the_page_it_begins_on(tmp_path: Path, parser: Parser) -> None:
    pages = ["\n".join(f"Page {page} line {line} with words." for line in range(20)) for page in range(1, 6)]
    path = write_pdf(tmp_path / "a.pdf", pages)
    _, *chunks = parser.records(Order(str(path), FileKind.PDF, size=300, overlap=0))
    assert len(chunks) == 10
    for chunk in chunks:
        assert chunk["text"].startswith(f"Page {chunk['page']} line")


def test_pdfs_that_cannot_be_read(tmp_path: Path, parser: Parser) -> None:
    def reason(path: Path) -> str:
        with pytest.raises(Unreadable) as caught:
            list(parser.records(Order(str(path), FileKind.PDF)))
        return str(caught.value)

    assert "encrypted" in reason(write_pdf(tmp_path / "locked.pdf", ["secret"], password="a password"))
    assert "no text in its 2 pages (scanned?)" in reason(write_pdf(tmp_path / "scan.pdf", ["", ""]))
    assert "cannot be read as PDF" in reason(write(tmp_path / "bad.pdf", b"%PDF-1.7\nnonsense"))
    complete = write_pdf(tmp_path / "whole.pdf", ["text"] * 3).read_bytes()
    assert reason(write(tmp_path / "cut.pdf", complete[:200]))
    assert reason(tmp_path / "none.pdf") == "cannot be read: No such file or directory"


def test_an_encrypted_pdf_that_opens_without_a_password(tmp_path: Path, parser: Parser) -> None:
    path = write_pdf(tmp_path / "a.pdf", ["open to all"], password="")
    assert list(parser.records(Order(str(path), FileKind.PDF)))[1]["text"] == "open to all"


# Encodings

LATIN = "Où sont les élèves de Müller? Ça va bien à Zürich, très près du château fort."
CHINESE = "检索增强生成把文档交给模型。The model reads them. 繁體字也可以。"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", CHINESE),
        ("utf-8-sig", CHINESE),
        ("utf-16", CHINESE),
        ("utf-16-le", "Plain words in sixteen bits."),
        ("utf-16-be", "Plain words in sixteen bits.\r\nTwo lines"),
        ("utf-32", CHINESE),
        ("gb18030", CHINESE),
        ("gbk", "中文"),
        ("cp1252", LATIN),
        ("cp1252", "“quoted” – and more"),
        ("ascii", "plain"),
        ("utf-16-le", CHINESE),
        ("utf-16-be", "日本語のテキストです。\n二行目"),
        ("utf-16-le", "Привет, мир. Как дела?"),
        ("utf-16-be", "안녕하세요 😀 세계"),
        ("utf-32-le", "Plain words in thirty-two bits."),
        ("utf-32-be", CHINESE),
        ("cp932", "日本語のテキストです。"),
        ("cp932", "価格は100円です。①②㈱ ｶﾅも。"),
        ("euc_jp", "日本語のテキストです。検索できます。"),
        ("iso2022_jp", "日本語のテキストです。"),
        ("euc_kr", "안녕하세요, 한국어 문서입니다."),
        ("cp949", "똠방각하와 펲시콜라는 한국어 문서입니다."),
        ("big5", "這是一個繁體中文的測試文件，內容是搜尋引擎。"),
        ("gb18030", "这是一个简体中文的测试文件，内容是搜索引擎。"),
        ("gb18030", "這是一個繁體中文的測試文件，內容是搜尋引擎。"),
        ("cp1251", "Привет, мир! Это документ на русском языке."),
        ("cp1251", "Привіт, світе! Це документ українською мовою."),
        ("koi8_r", "Привет, мир! Это документ на русском языке."),
        ("koi8_u", "Привіт, світе! Це документ українською мовою."),
        ("cp866", "Привет, мир! Это документ на русском языке."),
        ("iso8859_5", "Привет, мир! Это документ на русском языке."),
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy, a pak šel spát."),
        ("iso8859_2", "Wyszukiwarka indeksuje dokumenty. Spotkanie odbyło się w Łodzi, dziś świeci słońce."),
        ("cp1253", "Η μηχανή αναζήτησης ευρετηριάζει έγγραφα."),
        ("cp1254", "Arama motoru belgeleri dizine ekler. Toplantı İstanbul'da yapıldı, bugün güneşli."),
        ("cp1255", "מנוע החיפוש יוצר אינדקס של מסמכים."),
        ("cp1256", "يقوم محرك البحث بفهرسة المستندات."),
        ("cp874", "เครื่องมือค้นหาจัดทำดัชนีเอกสาร"),
        ("cp1252", "Die Größe der Straße: 5 € für Übung."),
        ("cp1252", "© 2024, 20 °C ± 2, £5"),
        ("cp1252", "café"),
        ("ascii", "Bush hid the facts\b"),
        ("cp1251", "A long English introduction comes first. " * 3000 + "Потом идёт документ на русском языке."),
    ],
)
def test_encodings_are_found_out(tmp_path: Path, encoding: str, text: str) -> None:
    path = write(tmp_path / "a.txt", text.encode(encoding))
    assert sections(path, FileKind.TEXT) == [((), text.replace("\r\n", "\n"))]


@pytest.mark.parametrize(
    "content",
    [
        "Київ".encode("cp1251"),  # four letters of any script
        "שלום".encode("cp1255"),
        "Поисковая система индексирует документы.".encode("mac_cyrillic"),  # capitals would be in other places
        "Où sont les élèves? L'été dernier, nous étions à la mer.".encode("cp850"),
        "L’été dernier, les élèves ont visité le musée où se trouvait un tableau.".encode("mac_roman"),  # `LŐŽtŽ`
    ],
)
def test_an_encoding_that_is_not_clear_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(Unreadable, match=r"encoding that cannot be told .* --encoding"):
        sections(write(tmp_path / "a.txt", content), FileKind.TEXT)


@pytest.mark.parametrize("text", ["中文的文档可以读。", "Le café des élèves, où il va", "Привет, мир!"])
def test_utf8_with_a_fault_is_no_other_encoding(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.txt", text.encode() + "読".encode()[:2] + b" cut")
    assert sections(path, FileKind.TEXT) == [((), f"{text}\ufffd cut")]
    for declaration in (b"", b"<meta charset=utf-8>", b"<meta charset=cp1252>"):
        page = b"<head>" + declaration + b"</head><p>" + path.read_bytes()
        assert sections(write(tmp_path / "a.html", page), FileKind.HTML) == [((), f"{text}\ufffd cut")]


@given(st.binary(max_size=300))
def test_any_bytes_are_text_of_one_encoding_or_refused(content: bytes) -> None:
    is_binary(content)
    try:
        text = decode(content)
    except Unreadable:
        return
    assert "\r" not in text


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=100))
def test_utf8_is_always_found_out(text: str) -> None:
    assert decode(text.encode()) == text.removeprefix("\ufeff")


def test_an_encoding_that_is_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "繁體中文".encode("big5"))
    assert sections(path, FileKind.TEXT, "big5") == [((), "繁體中文")]
    with pytest.raises(Unreadable, match="--encoding"):
        sections(path, FileKind.TEXT, "ascii")


# Limits


def test_a_bomb_and_a_hang_cost_themselves_only(tmp_path: Path) -> None:
    good = write(tmp_path / "a.md", "# A\n\ngood")
    hang = write(tmp_path / "hang.html", b"<div>" * 200_000 + b"x")  # quadratic in the depth: a minute and more
    bomb = write_bomb(tmp_path / "bomb.pdf", 50 * 2**20)
    flood = write_bomb(tmp_path / "flood.pdf", 90 * 2**20)
    assert bomb.stat().st_size < 2**18
    for path, kind, seconds, reason in (
        (hang, FileKind.HTML, 0.5, "takes more than"),
        (bomb, FileKind.PDF, 0.5, "takes more than"),
        (flood, FileKind.PDF, 60, "PDF"),
    ):
        with Parser(ParsingLimits(seconds=seconds)) as parser:
            with pytest.raises(Unreadable, match=reason):
                list(parser.records(Order(str(path), kind)))
            assert list(parser.records(Order(str(good), FileKind.MARKDOWN)))[1]["text"] == "A\n\ngood"


def test_a_file_that_needs_more_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "many words " * 2**22)
    with (
        Parser(ParsingLimits(memory=2**27)) as parser,
        pytest.raises(Unreadable, match=r"128 MiB of memory .*--max-memory"),
    ):
        list(parser.records(Order(str(path), FileKind.TEXT)))


def test_the_child_gets_no_credential_and_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_API_KEY", "sk-sage-secret")
    path = write(tmp_path / "a.jsonl", '{"text": "x"}\n')
    with Parser(ParsingLimits()) as parser:
        list(parser.records(Order(str(path), FileKind.JSONL)))
        process = parser._process
        assert process is not None
        environ = Path(f"/proc/{process.pid}/environ").read_bytes()
    assert b"PYTHONPATH" in environ
    assert b"sk-sage-secret" not in environ
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_parser_that_is_killed_is_started_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "words")
    with Parser(ParsingLimits()) as parser:
        assert len(list(parser.records(Order(str(path), FileKind.TEXT)))) == 2
        assert parser._process is not None
        os.kill(parser._process.pid, 9)
        parser._process.wait()
        assert len(list(parser.records(Order(str(path), FileKind.TEXT)))) == 2


# JSON lines


def test_json_lines_are_taken_as_they_are_and_faults_are_named(tmp_path: Path, parser: Parser) -> None:
    lines: list[Any] = [
        {"id": "a", "text": "one", "metadata": {"k": [1, None]}, "vector": [0.5, 1]},
        {"text": "二"},
        "",
        [1],
        {"text": 5},
        {"text": "x", "extra": 1},
        {"text": "x", "id": 7},
        {"text": "x", "vector": ["a"]},
        {"text": "x", "metadata": [1]},
    ]
    text = "\n".join(line if line == "" else orjson.dumps(line).decode() for line in lines) + "\n{broken\n"
    path = write(tmp_path / "a.jsonl", "\ufeff" + text)
    records = list(parser.records(Order(str(path), FileKind.JSONL)))
    assert [record["line"] for record in records] == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert [record["document"] for record in records[:2]] == lines[:2]
    for record, fault in zip(
        records[2:], ["object", "'text'", "'extra'", "'id'", "'vector'", "'metadata'", "JSON"], strict=True
    ):
        assert fault in record["error"]
    assert records[-1]["end"] == path.stat().st_size
    rest = list(parser.records(Order(str(path), FileKind.JSONL, offset=records[0]["end"], line=1)))
    assert rest == records[1:]
