"""Chunks: sizes, overlap, headings, whole code blocks, Chinese."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.ingest.chunks import Chunk, chunks, heading_line, measure
from sage.middleware.ingest.document import SIZE, ParsedDocument, TextSection
from sage.middleware.ingest.formats.markdown import parse_markdown


def of_text(text: str, size: int = SIZE, overlap: int = 100, *, markdown: bool = False) -> list[Chunk]:
    return list(chunks(ParsedDocument([TextSection((), text)], markdown=markdown), size, overlap))


def test_a_short_text_is_one_chunk() -> None:
    assert of_text("  a few words \n") == [Chunk("a few words", (), None)]


def test_sentences_stay_whole_and_neighbours_overlap() -> None:
    sentences = [f"This is sentence number {number} of the text." for number in range(100)]
    texts = [chunk.text for chunk in of_text(" ".join(sentences), 300, 60)]
    assert all(text.startswith("This is") and text.endswith("text.") and len(text) <= 300 for text in texts)
    for before, after in itertools.pairwise(texts):
        shared = after[: after.index(".") + 1]
        assert before.endswith(shared)
    assert {part for text in texts for part in text.split(". ")} >= {part.rstrip(".") for part in sentences[:-1]}


def test_chinese_counts_three_and_is_cut_at_sentences() -> None:
    sentence = "检索增强生成把找到的文档交给模型来回答问题。"
    texts = [chunk.text for chunk in of_text(sentence * 100, 900, 0)]
    assert measure(sentence) == 3 * len(sentence)
    assert all(len(text) <= 300 and text.startswith("检索") and text.endswith("。") for text in texts)
    assert "".join(texts) == sentence * 100


def test_each_chunk_begins_with_its_headings() -> None:
    body = "\n\n".join(f"Paragraph {number} has several words in it." for number in range(30))
    texts = list(chunks(parse_markdown(f"# Guide\n\n## Install\n\n{body}\n\n## Use\n\nRun it."), 300, 0))
    assert len(texts) > 4
    for chunk in texts[:-1]:
        assert chunk.heading == ("Guide", "Install")
        assert chunk.text.startswith("Guide > Install\n\nParagraph ")
        assert measure(chunk.text) <= 300 + 2
    assert texts[-1] == Chunk("Guide > Use\n\nRun it.", ("Guide", "Use"), None)


def test_a_code_block_that_fits_stays_whole() -> None:
    code = "```python\n" + "\n".join(f"value_{number} = {number}" for number in range(20)) + "\n```"
    words = "Some words stand here before the code. " * 12
    texts = [chunk.text for chunk in of_text(f"{words}\n\n{code}\n\n{words}", 600, 50, markdown=True)]
    assert [text for text in texts if code in text]


def test_long_heading_paths_show_their_end() -> None:
    line = heading_line(("a" * 200, "b" * 200))
    assert len(line) == 241
    assert line.startswith("…")
    assert line.endswith("b" * 200)
    (chunk,) = chunks(ParsedDocument([TextSection(("a" * 200, "b" * 200), "text")]), 100, 0)
    assert chunk.text.endswith("text")


@given(st.text(max_size=2000), st.integers(50, 400), st.integers(0, 49), st.booleans())
def test_no_chunk_is_too_large_and_no_word_is_lost(text: str, size: int, overlap: int, markdown: bool) -> None:
    text = text.encode("utf-8", "ignore").decode()
    texts = of_text(text, size, overlap, markdown=markdown) if text.strip() else []
    assert all(measure(chunk.text) <= size for chunk in texts)
    assert all(chunk.text.strip() for chunk in texts)
    letters = {char for char in text if char.isalnum()}
    assert letters <= {char for chunk in texts for char in chunk.text}
