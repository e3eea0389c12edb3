"""Marks of passages in a model's text, whole and in pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.gateway.vector_stores.citations import CitationStream, cite

RESULTS = [
    {"mark": "F1", "file_id": "file-a", "filename": "a.md"},
    {"mark": "F2", "file_id": "file-b", "filename": "b.md"},
    {"mark": "F3", "file_id": "file-a", "filename": "a.md"},
]


def cited(text: str) -> tuple[str, list[tuple[int, str]]]:
    shown, annotations = cite(text, RESULTS)
    assert all(each["type"] == "file_citation" for each in annotations)
    return shown, [(each["index"], each["file_id"]) for each in annotations]


@pytest.mark.parametrize(
    ("text", "shown", "annotations"),
    [
        ("Two years 【F1】.", "Two years.", [(9, "file-a")]),
        ("【F2】Blue", "Blue", [(0, "file-b")]),
        ("Both 【F1, F2】 say so.", "Both say so.", [(4, "file-a"), (4, "file-b")]),
        ("Once 【F1、F3】", "Once", [(4, "file-a")]),
        ("None 【F9】 and 【注】", "None 【F9】 and 【注】", []),
        ("Half 【F1", "Half 【F1", []),
        ("two  spaces ", "two  spaces ", []),
    ],
)
def test_marks_become_annotations(text: str, shown: str, annotations: Any) -> None:
    assert cited(text) == (shown, annotations)


@given(
    st.lists(
        st.one_of(st.sampled_from(["【F1】", " 【F2,F3】", "【", "】", "F1", " "]), st.text(max_size=4)), max_size=12
    ),
    st.lists(st.integers(1, 5), min_size=1, max_size=40),
)
def test_a_stream_shows_what_the_whole_text_does(parts: list[str], sizes: list[int]) -> None:
    text = "".join(parts)
    stream, pieces, annotations, place = CitationStream(RESULTS), [], [], 0
    for turn in range(len(text) + 1):
        piece = text[place : place + sizes[turn % len(sizes)]]
        place += len(piece)
        shown, found = stream.feed(piece)
        pieces.append(shown)
        annotations += found
    shown, found = stream.end()
    assert ("".join([*pieces, shown]), annotations + found) == cite(text, RESULTS)
