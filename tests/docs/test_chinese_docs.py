"""docs/zh says what docs/ says: the same sections, code, tables and names, so that nothing new is missing there."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import pytest
from project import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md"))
_FENCE = re.compile(r"^ *```")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_COMMENT = re.compile(r"(^|\s)(#|//|--) .*$", re.MULTILINE)


@dataclass
class Section:
    """One heading's own part of a page."""

    heading: str
    level: int
    blocks: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    rows: list[int] = field(default_factory=list)
    """Columns of each row of its tables."""


def sections(page: Path) -> list[Section]:
    found = [Section("(before the first heading)", 0)]
    prose: list[str] = []
    block: list[str] | None = None

    def end() -> None:
        text = "\n".join(prose)
        found[-1].names = {name.replace("\n", " ") for name in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)}
        found[-1].rows = [line.count("|") for line in prose if line.lstrip().startswith("|")]
        prose.clear()

    for line in page.read_text("utf-8").splitlines():
        if _FENCE.match(line):
            if block is None:
                block = []
            else:
                found[-1].blocks.append(_COMMENT.sub("", "\n".join(block)))
                block = None
        elif block is not None:
            block.append(line)
        elif line.startswith("#"):
            end()
            level = len(line) - len(line.lstrip("#"))
            found.append(Section(line.lstrip("# "), level))
        else:
            prose.append(line)
    end()
    assert block is None, f"{page.name}: a block does not end"
    return found


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    made = set()
    for section in sections(page):
        text = re.sub(r"[^\w\- ]", "", section.heading.replace("`", "").lower())
        made.add(text.strip().replace(" ", "-"))
    return made


@pytest.mark.parametrize("name", PAGES)
def test_a_page_in_chinese_has_all_that_the_english_one_has(name: str) -> None:
    there = DOCS / "zh" / name
    assert there.exists(), f"docs/zh/{name} is missing"
    for english, chinese in zip_longest(sections(DOCS / name), sections(there)):
        assert english is not None, f"'{chinese.heading}' is in Chinese only"
        assert chinese is not None, f"'{english.heading}' has no section in Chinese"
        where = f"'{english.heading}' / '{chinese.heading}'"
        assert chinese.level == english.level, where
        assert chinese.blocks == english.blocks, where
        assert chinese.rows == english.rows, f"{where}: rows of tables"
        assert english.names - chinese.names == set(), f"{where}: names that are not in the Chinese text"
        assert chinese.names - english.names == set(), f"{where}: names that are not in the English text"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_in_chinese_is_chinese(name: str) -> None:
    for line in (DOCS / "zh" / name).read_text("utf-8").splitlines():
        prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", line)
        if re.search(r"[\u4e00-\u9fff]", prose):
            halves = re.findall(r"[\u4e00-\u9fff][,;:?!](?=\s|$|[\u4e00-\u9fff])", prose)
            assert not halves, f"punctuation of half width: {line}"


@pytest.mark.parametrize("name", [*PAGES, *(f"zh/{name}" for name in PAGES)])
def test_links_between_pages_lead_somewhere(name: str) -> None:
    page = DOCS / name
    for target in _LINK.findall(page.read_text("utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name}: {target}"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), f"{name}: {target}"
