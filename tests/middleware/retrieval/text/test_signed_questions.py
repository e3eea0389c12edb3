"""Which signs of a query are meant: in real questions, pasted errors and commands none, in queries all."""

from __future__ import annotations

import pytest
from middleware.retrieval.text.signed_questions import EITHER_OF_TWO, MEANT, QUESTIONS

from sage.middleware.retrieval import VectorStore
from sage.middleware.retrieval.text.analyzer import Analyzer
from sage.middleware.retrieval.text.query_syntax import KeywordQuery, Syntax, parse_query
from sage.middleware.retrieval.text.sentences import is_sentence
from sage.middleware.settings.retrieval import AnalysisOptions

ANALYZER = Analyzer(AnalysisOptions())


def parsed(query: str, syntax: Syntax = Syntax.AUTO) -> KeywordQuery:
    return parse_query(query, ANALYZER, syntax)


@pytest.mark.parametrize("question", [question for question, _ in QUESTIONS])
def test_signs_of_a_question_are_plain_words(question: str) -> None:
    query = parsed(question)
    assert not query.constrains
    assert set(query.terms) == set(parsed(question, Syntax.PLAIN).terms)
    assert set(query.terms) >= set(ANALYZER.content_terms(question))


def test_each_question_finds_what_answers_it() -> None:
    with VectorStore(embedder="none") as store:
        ids = [str(number) for number in range(len(QUESTIONS))]
        store.add_documents([answer for _, answer in QUESTIONS], ids=ids)
        best = {syntax: [store.search(question, 1, syntax=syntax) for question, _ in QUESTIONS] for syntax in Syntax}
        right = {
            syntax: [id for id, results in zip(ids, found, strict=True) if [result.id for result in results] == [id]]
            for syntax, found in best.items()
        }
    assert right[Syntax.AUTO] == right[Syntax.PLAIN] == ids
    assert len(right[Syntax.QUERY]) < len(ids) / 3  # most answers do not meet the signs


@pytest.mark.parametrize("query", MEANT)
def test_meant_signs_are_exact(query: str) -> None:
    assert parsed(query) == parsed(query, Syntax.QUERY)
    assert parsed(query).constrains


@pytest.mark.parametrize("query", EITHER_OF_TWO)
def test_alternatives_of_another_query_language_are_words_and_what_is_excluded_is(query: str) -> None:
    assert parsed(query).required == ()
    assert parsed(query).excluded == parsed(query, Syntax.QUERY).excluded != ()


@pytest.mark.parametrize("query", ["-webkit-box-orient", "-hangzhou", "-nothing -else"])
def test_a_query_of_excluded_words_alone_looks_for_them(query: str) -> None:
    assert not parsed(query).constrains
    assert parsed(query).terms


def test_words_between_plain_quotation_marks_count_twice() -> None:
    assert parsed('Who sang "Kiss You All Over" on the radio?').terms == ("sang", "kiss", "radio", "kiss")
    assert parsed('Who sang "Who are you"?').terms == ("sang", "who", "are", "you")
    assert parsed("“绿茶”产自哪里？", Syntax.PLAIN).terms.count("绿茶") == 2


@pytest.mark.parametrize(
    "query",
    [
        "When did she leave?",
        "tell me about green tea",
        "Where is it",
        "the house is on fire",
        "Longjing tea grows near Hangzhou.",
        "杭州有什么茶",
        "龙井茶产自哪里？",
        "这是一篇关于茶的文章",
        "Was trinkt man in Hangzhou?",
        "what's new",
        " ".join(["keyword"] * 12),
    ],
)
def test_sentences(query: str) -> None:
    assert is_sentence(query)


@pytest.mark.parametrize(
    "query",
    ["green tea", "tea in hangzhou", "machine learning tutorial", "龙井茶", "杭州 绿茶 产地", "C++ templates", "?", ""],
)
def test_keywords_are_no_sentence(query: str) -> None:
    assert not is_sentence(query)
