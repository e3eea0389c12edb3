"""Collections of several tenants under one directory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage.errors import Conflict, InvalidRequest, NotFound
from sage.middleware.retrieval.collections import Collections
from sage.middleware.retrieval.embedders import Embedder, Reranker
from sage.middleware.retrieval.search import Mode, Search
from sage.middleware.retrieval_settings import Retrieval


class NoModels:
    """Keywords only, and a reranker that likes short texts."""

    def embedder(self, name: str) -> Embedder | None:
        return None

    def reranker(self, name: str) -> Reranker:
        return Shortest()


class Shortest:
    def rerank(self, query: str, texts: list[str]) -> list[float]:
        return [-float(len(text)) for text in texts]


@pytest.fixture
def collections(tmp_path: Path) -> Iterator[Collections]:
    found = Collections(tmp_path, Retrieval(), NoModels())
    yield found
    found.close()


def test_tenants_do_not_meet(collections: Collections) -> None:
    collections.create("red", "notes").add([{"id": "1", "text": "secret of red"}])
    collections.create("blue", "notes").add([{"id": "1", "text": "secret of blue"}])
    assert collections.names("red") == ["notes"]
    assert collections.names("nobody") == []
    found = collections.open("red", "notes").search(Search("secret"))
    assert [result.text for result in found.results] == ["secret of red"]
    collections.delete("red", "notes")
    assert collections.open("blue", "notes").get("1").text == "secret of blue"


@pytest.mark.parametrize("name", ["notes", "笔记", "a.b-c_1", "9", "Ünï"])
def test_good_names(collections: Collections, name: str) -> None:
    collections.create("t", name)
    assert collections.names("t") == [name]
    assert collections.open("t", name).describe()["name"] == name


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "_x", "a b", "a\x00", "x" * 65, "中" * 27])
def test_bad_names_are_refused(collections: Collections, name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="name"):
        collections.create("t", name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_one_is_named_with_those_that_are_there(collections: Collections) -> None:
    collections.create("t", "one")
    with pytest.raises(NotFound, match="there are: one"):
        collections.open("t", "two")
    with pytest.raises(Conflict, match="exists"):
        collections.create("t", "one")


def test_options_are_the_settings_where_the_request_says_nothing(tmp_path: Path) -> None:
    settings = Retrieval.model_validate({"defaults": {"keywords": {"k1": 0.9, "b": 0.4}}})
    collections = Collections(tmp_path, settings, NoModels())
    made = collections.create("t", "c", {"keywords": {"b": 0.5}, "metric": "dot"})
    assert (made.options.keywords.k1, made.options.keywords.b, made.options.metric) == (0.9, 0.5, "dot")
    with pytest.raises(InvalidRequest, match="metric"):
        collections.create("t", "d", {"metrics": "dot"})
    assert collections.names("t") == ["c"]
    collections.close()


def test_one_that_another_process_deleted_and_made_anew(tmp_path: Path) -> None:
    ours, theirs = (Collections(tmp_path, Retrieval(), NoModels()) for _ in range(2))
    ours.create("t", "c").add([{"id": "old", "text": "old"}])
    theirs.delete("t", "c")
    with pytest.raises(NotFound):
        ours.open("t", "c")
    theirs.create("t", "c").add([{"id": "new", "text": "new"}])
    assert ours.open("t", "c").get("new").text == "new"
    with pytest.raises(NotFound):
        ours.open("t", "c").get("old")
    ours.close()
    theirs.close()


def test_pages_of_documents_have_no_gaps(collections: Collections) -> None:
    made = collections.create("t", "c")
    made.add([{"id": f"d{number}", "text": "x", "metadata": {"even": number % 2 == 0}} for number in range(25)])
    for condition, expected in ((None, 25), ({"even": True}, 13)):
        seen: list[str] = []
        cursor = None
        while True:
            documents, cursor = made.page(cursor, 4, condition)
            seen += [document.id for document in documents]
            if cursor is None:
                break
        assert len(seen) == expected
        assert seen == [f"d{number}" for number in range(0, 25, 1 if condition is None else 2)]
    with pytest.raises(InvalidRequest, match="cursor"):
        made.page("nonsense")


def test_a_snapshot_is_restored_under_another_name(collections: Collections) -> None:
    made = collections.create("t", "c", {"keywords": {"variant": "okapi"}})
    made.add([{"id": "a", "text": "alpha", "metadata": {"n": 1}, "vector": [1, 2]}, {"id": "b", "text": "beta"}])
    stream = io.BytesIO()
    made.snapshot(stream)
    made.delete(["a"])
    stream.seek(0)
    again = collections.restore("other", "copy", stream)
    assert list(again.get("a", vector=True).vector) == [1.0, 2.0]
    assert again.describe()["documents"] == 2
    assert again.options.keywords.variant == "okapi"
    stream.seek(0)
    with pytest.raises(Conflict):
        collections.restore("other", "copy", stream)
    with pytest.raises(InvalidRequest):
        collections.restore("other", "cut", io.BytesIO(stream.getvalue()[:-20]))
    assert collections.names("other") == ["copy"]


def test_reranked_pages_are_one_list(collections: Collections) -> None:
    made = collections.create("t", "c")
    made.add([{"id": f"d{number:02}", "text": "word " * (1 + number * 7 % 20)} for number in range(20)])
    whole = made.search(Search("word", mode=Mode.BM25, top_k=20, rerank="any", rerank_depth=12)).results
    assert [len(result.text) for result in whole[:12]] == sorted(len(result.text) for result in whole[:12])
    assert [result.score for result in whole] == sorted((result.score for result in whole), reverse=True)
    pages = [
        result.id
        for offset in range(0, 20, 3)
        for result in made.search(
            Search("word", mode=Mode.BM25, top_k=3, offset=offset, rerank="any", rerank_depth=12)
        ).results
    ]
    assert pages == [result.id for result in whole]


def test_many_collections_take_turns_being_open(collections: Collections) -> None:
    for number in range(120):
        collections.create("t", f"c{number}").add([{"id": "x", "text": f"text {number}"}])
    assert [collections.open("t", f"c{number}").get("x").text for number in (0, 60, 119)] == [
        "text 0",
        "text 60",
        "text 119",
    ]
