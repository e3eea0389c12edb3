"""Passages with what matched."""

from __future__ import annotations

import html
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.highlighter import PASSAGES, WIDTH, Highlighter
from sage.middleware.retrieval.text.query_syntax import Syntax
from sage.middleware.settings.retrieval import AnalysisOptions

ANALYZER = Analyzer(AnalysisOptions())


@pytest.mark.parametrize(
    ("query", "text", "passages"),
    [
        ("running dog", "Dogs run. A cat sleeps.", ["<em>Dogs</em> <em>run</em>. A cat sleeps."]),
        ("the dog", "The dog, the end", ["The <em>dog</em>, the end"]),
        ("cafe", "Ein Café!", ["Ein <em>Café</em>!"]),
        ("x<b", "if x<b & c", ["if <em>x</em>&lt;<em>b</em> &amp; c"]),
        ("大学", "北京大学。大家好。", ["北京<em>大学</em>。大家好。"]),
        ("北京大学历史", "北京大学的历史", ["<em>北京大学</em>的<em>历史</em>"]),
        ("大人", "大家的人", ["<em>大</em>家的<em>人</em>"]),
        ("rtx-4090", "ＲＴＸ－４０９０ and RTX 4090", ["<em>ＲＴＸ－４０９０</em> and <em>RTX</em> <em>4090</em>"]),
        ('"brown fox" -red', "red brown fox", ["red <em>brown</em> <em>fox</em>"]),
        ("user", "call getUserById(1)", ["call get<em>User</em>ById(1)"]),
        ("nodejs email 123", "Node.JS by e-mail ١٢٣", ["<em>Node.JS</em> by <em>e-mail</em> <em>١٢٣</em>"]),
        ("RTX4090", "an RTX 4090 card", ["an <em>RTX</em> <em>4090</em> card"]),
        ("rtx 4090", "an RTX4090 card", ["an <em>RTX4090</em> card"]),
        ("1.2.3", "since v1.2.3", ["since <em>v1.2.3</em>"]),
        (unicodedata.normalize("NFD", "+한국어"), "한국어 수업", ["<em>한국어</em> 수업"]),
        ("ไทย", "ภาษาไทย", ["ภาษา<em>ไทย</em>"]),
        ("nothing", "of the kind", []),
        ("", "text", []),
    ],
)
def test_passages(query: str, text: str, passages: list[str]) -> None:
    assert Highlighter(ANALYZER, query, Syntax.AUTO).passages(text) == passages


def test_the_best_sentences_of_a_long_text_in_their_order() -> None:
    filler = (
        "Nothing of interest is said in this rather long sentence, which only fills the page, line by line by line. "
    )
    text = filler * 3 + "The fox came first. " + filler * 3 + "A quick brown fox. " + filler * 3 + "Brown bread. "
    text += filler * 3 + "Quick, said the fox. " + filler
    passages = Highlighter(ANALYZER, "quick brown fox", Syntax.AUTO).passages(text)
    assert len(passages) == PASSAGES
    assert [re.findall("<em>(.*?)</em>", passage) for passage in passages] == [
        ["fox"],
        ["quick", "brown", "fox"],
        ["Quick", "fox"],
    ]


def test_a_sentence_without_end_is_cut_at_words() -> None:
    passages = Highlighter(ANALYZER, "needle", Syntax.AUTO).passages("hay " * 200 + "needle " + "straw " * 200)
    assert len(passages) == 1
    assert passages[0].startswith("…hay")
    assert passages[0].endswith("straw…")
    assert "<em>needle</em>" in passages[0]
    assert len(passages[0]) < WIDTH + 20


@given(st.text(st.sampled_from("ab A.<>&é。大学 \n!"), max_size=400), st.sampled_from(["a b", "大学", "é <", "学"]))
def test_a_passage_is_the_text_itself(text: str, query: str) -> None:
    passages = Highlighter(ANALYZER, query, Syntax.AUTO).passages(text)
    assert len(passages) <= PASSAGES
    position = 0
    for passage in passages:
        assert "<em>" in passage
        plain = html.unescape(passage.replace("<em>", "").replace("</em>", "").strip("…"))
        position = text.index(plain, position) + len(plain)
