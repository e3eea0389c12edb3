"""Phrases, required and excluded words: what is read from a query, and which documents are left."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import InvalidRequest
from sage.middleware.retrieval.keywords.phrases import clause_masks
from sage.middleware.retrieval.keywords.postings import KeywordIndex
from sage.middleware.retrieval.keywords.search import KeywordLeg
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.query_syntax import KeywordQuery, Syntax, parse_query
from sage.middleware.settings.retrieval import AnalysisOptions, KeywordOptions

ANALYZER = Analyzer(AnalysisOptions())


def parsed_query(query: str) -> KeywordQuery:
    return parse_query(query, ANALYZER, Syntax.QUERY)


def matching(query: str, texts: Sequence[str], live: list[bool] | None = None) -> list[int] | None:
    """The rows that the query's constraints leave, over two segments; ``None``: it has none."""
    middle = len(texts) // 2
    mask = np.array([True] * len(texts) if live is None else live, np.bool_)
    segments = [
        (KeywordIndex.build([ANALYZER.terms(text) for text in texts[segment]]), mask[segment])
        for segment in (slice(0, middle), slice(middle, None))
    ]
    masks = KeywordLeg(segments, KeywordOptions()).constraint(
        parsed_query(query), ANALYZER, lambda rows: [texts[row] for row in rows]
    )
    return None if masks is None else np.flatnonzero(np.concatenate(masks)).tolist()


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("plain words", None),
        ('"brown fox"', [0, 3]),
        ('"foxes brown"', [1]),
        ('"state of the art"', [4]),
        ('"to be or not"', [5]),
        ("+fox", [0, 1, 2, 3]),
        ("+fox -brown", [2]),
        ('fox -"brown fox"', [1, 2, 4, 5, 6, 7, 8, 9]),
        ("“北京大学”", [6]),
        ("「大学」", [6, 7]),
        ("+北京 -大学堂", [6]),
        ("+RTX-4090", [8, 9]),
        ("+RTX4090", [8, 9]),
        ("-RTX4090 +4090", []),
        ('"RTX4090 card"', [8, 9]),
        ('+fox +"brown fox" -quick', [3]),
        ("＋fox －brown", [2]),
        ("+unknown", []),
    ],
)
def test_constraints(query: str, left: list[int] | None) -> None:
    texts = [
        "The quick brown fox",
        "fox, brown",
        "foxes",
        "many brown foxes here",
        "state-of-the-art",
        "to be or not to be",
        "他在北京大学读书",
        "北京的京师大学堂",
        "an RTX-4090 card",
        "an RTX 4090 card",
    ]
    assert matching(query, texts) == left


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("+nodejs", [0, 1]),
        ("+node.js", [0, 1]),
        ('"node.js"', [0, 1]),
        ('"nodejs"', [0, 1]),
        ('"js node"', []),
        ('-"node.js"', [2, 3, 4, 5, 6, 7, 8]),
        ("+e-mail", [2, 3]),
        ('"e-mail"', [2, 3]),
        ("+email -mail", [3]),
        ("+getUserById", [4]),
        ("+user", [4]),
        ('"ph.d. in javascript"', [5, 6]),
        ('"PhD in JavaScript"', [5, 6]),
        ('"youtube video"', [7]),
        ("+youtube", [7]),
        ('"rtx4090 card"', [8]),
    ],
)
def test_words_written_in_two_ways_meet_the_same_constraints(query: str, left: list[int]) -> None:
    texts = ["about node.js", "about NodeJS", "an e-mail", "an email", "call getUserById()"]
    texts += ["a Ph.D. in JavaScript", "a PhD in Javascript", "a YouTube video", "an RTX 4090 card"]
    assert matching(query, texts) == left


def test_the_dead_are_neither_asked_for_nor_found() -> None:
    texts = ["brown fox", "brown fox", "brown fox", "x"]
    assert matching('"brown fox"', texts, [False, True, False, True]) == [1]
    assert matching("-unknown", texts, [False, True, False, True]) == [1, 3]


def test_a_text_that_is_gone_is_not_found() -> None:
    index = KeywordIndex.build([["a", "b"], ["a", "b"]])
    leg = KeywordLeg([(index, None)], KeywordOptions())
    masks = leg.constraint(parsed_query('"a b"'), ANALYZER, lambda rows: [None, "a b"])
    assert masks is not None
    assert masks[0].tolist() == [False, True]


@pytest.mark.parametrize(
    ("query", "text", "terms"),
    [
        ('say "hello there" +now -never', "say hello there now", ["say", "hello", "now"]),
        ('the "to be" of it', "the to be of it", ["to", "be"]),
        ("-only", "", []),
        ("well-known", "well-known", ["well", "known"]),
        ("C++ templates", "C++ templates", ["c++", "templat"]),
    ],
)
def test_what_is_scored_and_what_is_embedded(query: str, text: str, terms: list[str]) -> None:
    parsed = parsed_query(query)
    assert parsed.text == text
    assert list(parsed.terms) == terms


@pytest.mark.parametrize(
    "query",
    [
        '"not closed',
        'a 5" disk and 6" more',
        " - a + b",
        "--a",
        "+-a",
        '""',
        '" "',
        "+",
        "-",
        '+"',
        "“a",
        "」a「",
        "+!",
    ],
)
def test_what_is_malformed_is_plain(query: str) -> None:
    parsed = parsed_query(query)
    assert not parsed.constrains
    assert list(parsed.terms) == ANALYZER.query_terms(query)


@given(st.text(st.sampled_from('ab北京"“”「」+-＋－ .!'), max_size=30))
def test_no_query_is_an_error_and_none_of_its_words_is_lost(query: str) -> None:
    parsed = parsed_query(query)
    words = {*ANALYZER.atoms(parsed.text), *(atom for c in parsed.excluded for atom in ANALYZER.atoms(c.text))}
    assert words == set(ANALYZER.atoms(query))
    matching(query, ["a b", "北京", ""])


COMPOSED = [
    "한국어 수업",
    "ガイドを買う",
    "น้ำตก",
    "क़लम",
    "Tiếng Việt",
    "Ελλάδα ᾧ",
    "မြန်မာ",
    "ড়োয়া",
    "שָׁלוֹם",
    "آب",
    "plain",
]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("+한국어", [0]),
        ("-한국어", [*range(1, 11)]),
        ('"한국어"', [0]),
        ('"한국어 수업"', [0]),
        ('수업"한국어"', [0]),
        ("+ｶﾞｲﾄﾞ", [1]),
        ('"ｶﾞｲﾄﾞ"', [1]),
        ('-"ｶﾞｲﾄﾞ"', [0, *range(2, 11)]),
        ("+น้ำ", [2]),
        ("+ำ", [2]),
        ("-ำ", [0, 1, *range(3, 11)]),
        ('"ำ"', [2]),
        ('ตก"น้ำ"', [2]),
        ("+क़लम", [3]),
        ('"Tiếng Việt"', [4]),
        ("+ᾧ -plain", [5]),
        ('"မြန်မာ"', [6]),
        ("+ড়োয়া", [7]),
        ("+שָׁלוֹם", [8]),
        ("+آب", [9]),
    ],
)
def test_decomposed_queries_are_as_composed_ones(query: str, left: list[int], form: str) -> None:
    assert matching(unicodedata.normalize(form, query), COMPOSED) == left


@given(st.text(st.sampled_from('한국ｶﾞパがンำเิက္ខ្ö̈יִ々aF1 "「」+-'), max_size=20), st.sampled_from(["NFC", "NFD"]))
def test_a_query_of_any_script_is_never_an_error_in_either_form(query: str, form: str) -> None:
    other = unicodedata.normalize(form, query)
    assert matching(other, COMPOSED) == matching(query, COMPOSED)
    parsed, composed = parsed_query(other), parsed_query(query)
    assert parsed == composed


SIGNED = ["tea .NET core", "tea #tag", "tea @user", "tea _name", "tea 👍", "tea 👩\u200d👧", "tea 🇩🇪"]


@pytest.mark.parametrize(("word", "kept"), [(text.split()[1], number) for number, text in enumerate(SIGNED)])
def test_signs_stand_before_names_with_a_sign_of_their_own_and_before_emoji(word: str, kept: int) -> None:
    assert matching(f"tea +{word}", SIGNED) == [kept]
    assert matching(f"tea -{word}", SIGNED) == [number for number in range(len(SIGNED)) if number != kept]


@pytest.mark.parametrize("query", ["tea -.", "tea +...", "tea +#", "tea --tea", "tea -©", "tea -.5x", "tea +\u200d"])
def test_what_is_no_word_after_a_sign_is_plain_text(query: str) -> None:
    assert matching(query, SIGNED) is None


def test_halves_of_surrogate_pairs_are_no_error() -> None:
    assert matching("+\ud83d\udc4d", SIGNED) == [4]
    assert matching("tea \ud83d", SIGNED) is None
    assert parsed_query("tea \ud83d").text == "tea \ufffd"


def test_behind_the_fiftieth_sign_all_is_plain_text() -> None:
    query = parsed_query(" ".join(f"+w{number}" for number in range(60)))
    assert [clause.text for clause in query.required] == [f"w{number}" for number in range(50)]
    assert set(query.terms) == {f"w{number}" for number in range(60)}


def test_phrases_of_common_words_do_not_read_a_whole_collection() -> None:
    index = KeywordIndex.build([ANALYZER.terms("a common phrase")] * 30)
    query = parsed_query('"common phrase"')
    read: list[int] = []

    def texts(rows: Sequence[int]) -> list[str]:
        read.extend(rows)
        return ["a common phrase"] * len(rows)

    among = np.arange(30) < 20
    assert clause_masks([(index, None)], [0], query, ANALYZER, texts, [among], 20)[0].tolist() == among.tolist()
    assert read == list(range(20))  # a filter comes first
    with pytest.raises(InvalidRequest, match=r"common phrase.* too many") as refused:
        clause_masks([(index, None)], [0], query, ANALYZER, texts, [None], 29)
    assert refused.value.code == "phrase_too_common"
