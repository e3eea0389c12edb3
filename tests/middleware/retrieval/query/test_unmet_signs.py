"""Signs that leave no document: the query is asked without them, and the answer says so."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from sage.errors import InvalidRequest
from sage.middleware.retrieval import VectorStore
from sage.middleware.retrieval.keywords import phrases
from sage.middleware.retrieval.text.query_syntax import Syntax
from sage.middleware.retrieval.types.search import Mode, Search

TEXTS = ("green tea of Hangzhou", "black tea of Fujian", "green apples", "coffee of Yunnan", "杭州的绿茶")


@pytest.fixture
def store() -> Iterator[VectorStore]:
    with VectorStore(embedder=embed, embedder_name="letters") as store:
        store.add_documents(TEXTS, ids=[str(number) for number in range(len(TEXTS))])
        yield store


def embed(texts: list[str]) -> np.ndarray:
    return np.array([[1.0, *(text.count(letter) for letter in "aeit")] for text in texts], np.float32)


def found(store: VectorStore, query: str, **options: object) -> tuple[list[str], list[str]]:
    answer = store.collection.search(Search(query, **options))  # type: ignore[arg-type]
    return [result.id for result in answer.results], answer.warnings


@pytest.mark.parametrize("mode", [Mode.BM25, Mode.HYBRID, Mode.DENSE])
@pytest.mark.parametrize(
    "query", ['"green coffee"', "+tea +apples", '"绿茶的杭州"', "tea +nowhere", '"tea green" -coffee']
)
def test_a_phrase_or_word_that_no_document_holds(store: VectorStore, query: str, mode: Mode) -> None:
    ids, warnings = found(store, query, mode=mode)
    assert ids
    assert len(warnings) == 1
    assert "quotation marks and plus signs" in warnings[0]
    assert found(store, query, mode=mode, syntax=Syntax.QUERY) == ([], [])
    if "-coffee" in query:
        assert "3" not in ids  # what is excluded stays so


def test_one_document_that_meets_them_is_an_answer(store: VectorStore) -> None:
    for mode in Mode:
        assert found(store, '"green tea"', mode=mode) == (["0"], [])
        assert found(store, "+tea -hangzhou", mode=mode) == (["1"], [])
        assert found(store, "“绿茶”", mode=mode) == (["4"], [])


def test_words_that_exclude_everything(store: VectorStore) -> None:
    ids, warnings = found(store, "coffee -yunnan", mode=Mode.BM25)
    assert ids == ["3"]
    assert warnings == ["the query's signs leave no document, so it was asked without them (syntax 'query' keeps them)"]
    assert found(store, "coffee -yunnan", mode=Mode.BM25, syntax=Syntax.QUERY) == ([], [])
    assert found(store, "+nowhere -nothing", mode=Mode.BM25) == ([], [])  # without signs there is nothing either


def test_a_filter_that_lets_nothing_through_is_not_the_signs_fault(store: VectorStore) -> None:
    assert found(store, '"green tea"', filter={"n": 1}) == ([], [])


def test_all_pages_are_of_one_order(store: VectorStore) -> None:
    whole, warnings = found(store, '"tea of green"', top_k=5)
    pages = [found(store, '"tea of green"', top_k=1, offset=start) for start in range(5)]
    assert [id for ids, _ in pages for id in ids] == whole
    assert all(each == warnings != [] for _, each in pages)


def test_a_phrase_of_too_common_words_is_no_error(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phrases.clause_masks, "__defaults__", (0,))
    ids, warnings = found(store, '"green tea"', mode=Mode.BM25)
    assert set(ids) >= {"0", "1", "2"}
    assert "in too many documents" in warnings[0]
    with pytest.raises(InvalidRequest, match="too many documents"):
        found(store, '"green tea"', syntax=Syntax.QUERY)


def test_a_sentence_needs_no_warning(store: VectorStore) -> None:
    ids, warnings = found(store, 'Where does the "green coffee" come from?', mode=Mode.BM25)
    assert set(ids) == {"0", "2", "3"}
    assert warnings == []
    assert found(store, 'Where does the "green coffee" come from?', syntax=Syntax.QUERY) == ([], [])


def test_signs_as_plain_words(store: VectorStore) -> None:
    ids, warnings = found(store, "tea -hangzhou", mode=Mode.BM25, syntax=Syntax.PLAIN)
    assert (ids, warnings) == (["0", "1"], [])


def test_an_unknown_syntax_is_refused(store: VectorStore) -> None:
    with pytest.raises(InvalidRequest, match="auto, query, plain"):
        store.search("tea", syntax="lucene")
