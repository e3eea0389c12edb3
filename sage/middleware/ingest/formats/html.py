"""HTML: the main text with its headings, as simple Markdown, without what a browser does not show, and without
navigation where there is other text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sage.errors import MissingExtra
from sage.middleware.ingest.decoding import decode, unicode_encoding
from sage.middleware.ingest.document import (
    HeadingPath,
    ParsedDocument,
    TextSection,
    Unreadable,
    gather,
    one_line,
    picture,
)

_NOT_TEXT = "script,style,noscript,template,button,select,datalist,iframe,object,svg,canvas,video,audio"
_HIDDEN = "[hidden],[style],dialog"  # those of them that a browser does not show
_APART = (
    "nav,aside,footer,search,[aria-hidden=true],[role=navigation],[role=banner],[role=contentinfo],[role=search],"
    "[role=complementary]"
)
_BLOCKS = re.compile(
    "address|article|blockquote|body|caption|center|dd|details|div|dl|dt|fieldset|figcaption|figure|header|hr|legend|li|"
    "main|ol|option|p|section|summary|table|tbody|tfoot|thead|tr|ul"
)
_LINE_END = "\x00"  # stands for <br>; HTML itself cannot hold one
_HEADING = re.compile(r"h[1-6]")
_DECLARED = re.compile(rb"""<(?:meta[^>]+charset\s*=|\?xml[^>]+encoding\s*=)\s*["']?([A-Za-z0-9_:.-]{1,40})""", re.I)


def parse_html(data: bytes, encoding: str | None = None) -> ParsedDocument:
    """Sections by heading; the title from ``<title>``, else the first ``<h1>``; the language as metadata ``lang``."""
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError as exc:
        raise MissingExtra("sage ingest of HTML", "ingest") from exc
    text = _text(data, encoding)
    tree = LexborHTMLParser(text)
    title = tree.css_first("head > title") or tree.css_first("h1")
    name = one_line(title.text()) if title is not None else ""
    language = tree.root.attributes.get("lang") if tree.root is not None else None
    sections = _sections(_without_navigation(tree)) or _sections(_main(LexborHTMLParser(text)))
    metadata = {"lang": language.lower()[:35]} if language else {}
    return ParsedDocument(sections, name or None, metadata, markdown=True)


def _sections(root: Any) -> list[TextSection]:
    return gather(_Reader().sections(root)) if root is not None else []


def _text(data: bytes, encoding: str | None) -> str:
    """Decodes by ``encoding``, else the byte order mark, else what the page declares, else what is detected."""
    declared = _DECLARED.search(data[:4096])
    if encoding is None and declared and unicode_encoding(data) is None:
        try:
            return decode(data, browsers_name(declared[1].decode()))
        except Unreadable:
            pass
    return decode(data, encoding)


def browsers_name(name: str) -> str:
    """The encoding that browsers use for a label (WHATWG Encoding): it may be a larger one than the label names."""
    name = name.lower()
    larger = {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252", "latin1": "cp1252", "ascii": "cp1252"}
    larger |= {"shift_jis": "cp932", "sjis": "cp932", "euc-kr": "cp949", "ks_c_5601-1987": "cp949", "big5": "big5hkscs"}
    larger |= {"x-sjis": "cp932", "tis-620": "cp874", "windows-874": "cp874", "iso-8859-9": "cp1254"}
    return larger.get(name, name)


def _main(tree: Any) -> Any:
    """The element with the page's own text, without what is no text and what a browser does not show: its ``<main>``,
    else its only ``<article>``, else the body."""
    for node in tree.css(_NOT_TEXT):
        node.decompose()
    for node in tree.css(_HIDDEN):
        if node.tag not in ("html", "body") and _is_hidden(node):
            node.decompose()
    for selector in ("main,[role=main]", "article"):
        matches = tree.css(selector)
        if len(matches) == 1 and matches[0].text().strip():
            return matches[0]
    return tree.body


def _is_hidden(node: Any) -> bool:
    """By its own attributes. What ``hidden=until-found`` hides, a browser finds and shows."""
    attributes = node.attributes
    if node.tag == "dialog" and "open" not in attributes:
        return True
    if "hidden" in attributes and (attributes["hidden"] or "").strip().lower() != "until-found":
        return True
    style = {}
    for declaration in (attributes.get("style") or "").lower().split(";"):
        name, _, value = declaration.partition(":")
        style[name.strip()] = value.replace("!important", "").strip()
    return (
        style.get("display") == "none"
        or style.get("visibility") in ("hidden", "collapse")
        or style.get("content-visibility") == "hidden"
    )


def _without_navigation(tree: Any) -> Any:
    """As :func:`_main`, without the parts around the page's own text."""
    for node in tree.css(_APART):
        node.decompose()
    main = _main(tree)
    for form in main.css("form") if main is not None else ():
        if _only_asks(form):
            form.decompose()
    for header in tree.css("body > header, body > form > header"):
        if header.css_first("h1") is None:
            header.decompose()
    return main


def _only_asks(form: Any) -> bool:
    """Whether a form has no text but the labels of what is to be filled in. Some pages are one form as a whole."""
    labels = "".join(label.text() for label in form.css("label,legend"))
    return len("".join(form.text().split())) <= len("".join(labels.split()))


@dataclass
class _Reader:
    """Walks a tree without recursion, since pages may be nested very deeply."""

    _headings: HeadingPath = field(default_factory=HeadingPath)
    _blocks: list[str] = field(default_factory=list)
    _inline: list[str] = field(default_factory=list)
    _cells: list[str] | None = None
    _rows: int = 0
    _lists: list[str] = field(default_factory=list)

    def sections(self, root: Any) -> Iterator[tuple[tuple[str, ...], str]]:
        stack: list[tuple[Any, bool]] = [(root, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                self._leave(node.tag)
                continue
            tag = node.tag
            if tag == "-text":
                self._inline.append(node.text(deep=False))
            elif tag is not None and _HEADING.fullmatch(tag):
                yield self._section()
                self._headings.enter(int(tag[1]), node.text())
            elif tag == "pre":
                self._end_block()
                self._blocks.append(fenced(node.text()))
            elif tag == "br":
                self._inline.append(_LINE_END)
            elif tag == "img":
                self._inline.append(f" {picture(node.attributes.get('alt') or '')} ")
            elif tag is not None and not tag.startswith(("-", "!")):
                self._enter(tag)
                stack.append((node, True))
                children = list(node.iter(include_text=True))
                stack += [(child, False) for child in reversed(children)]
        yield self._section()

    def _enter(self, tag: str) -> None:
        if _BLOCKS.fullmatch(tag):
            self._end_block()
        if tag in ("ul", "ol"):
            self._lists.append(tag)
        elif tag == "li":
            self._inline.append("  " * max(len(self._lists) - 1, 0) + "- ")
        elif tag == "tr":
            self._cells = []
        elif tag == "table":
            self._rows = 0

    def _leave(self, tag: str) -> None:
        if tag in ("td", "th") and self._cells is not None:
            self._cells.append(_collapsed("".join(self._inline)).replace("\n", " ").replace("|", "\\|"))
            self._inline.clear()
        elif tag == "tr" and self._cells is not None:
            self._row(self._cells)
            self._cells = None
        elif tag in ("ul", "ol") and self._lists:
            self._end_block()
            self._lists.pop()
        elif _BLOCKS.fullmatch(tag):
            self._end_block()

    def _row(self, cells: list[str]) -> None:
        line = f"| {' | '.join(cells)} |"
        if not any(cells):
            return
        if self._rows == 0:
            self._blocks.append(f"{line}\n|{'---|' * len(cells)}")
        else:
            self._blocks[-1] += f"\n{line}"
        self._rows += 1

    def _end_block(self) -> None:
        text = "".join(self._inline)
        self._inline.clear()
        indent = re.match(r" *- ", text)
        begin = indent[0] if indent and self._lists else ""
        collapsed = _collapsed(text[len(begin) :])
        if not collapsed:
            if begin:
                self._inline.append(begin)  # an item whose text is in a block of its own
            return
        if begin and self._blocks and re.match(r" *- ", self._blocks[-1]):
            self._blocks[-1] += f"\n{begin}{collapsed}"
        elif self._cells is not None:
            self._inline.append(f"{collapsed} ")
        else:
            self._blocks.append(begin + collapsed)

    def _section(self) -> tuple[tuple[str, ...], str]:
        self._end_block()
        self._inline.clear()
        section = self._headings.path(), "\n\n".join(self._blocks)
        self._blocks = []
        self._rows = 0
        return section


def _collapsed(text: str) -> str:
    """The text with white space as a browser shows it; ``<br>`` becomes a line end."""
    return "\n".join(line for part in text.split(_LINE_END) if (line := " ".join(part.split())))


def fenced(code: str) -> str:
    ticks = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, ticks + 1)
    body = code.strip("\n")
    return f"{fence}\n{body}\n{fence}"
