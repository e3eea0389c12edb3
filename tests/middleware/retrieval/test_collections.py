"""Collections of several tenants under one directory."""

from __future__ import annotations

import io
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage.errors import Conflict, InvalidRequest, NotFound
from sage.middleware.retrieval import collection as collection_room
from sage.middleware.retrieval.collections import Collections
from sage.middleware.retrieval.embedding.protocols import Embedder, Reranker
from sage.middleware.retrieval.filters.language import Filter
from sage.middleware.retrieval.index.view import View
from sage.middleware.retrieval.types.search import Mode, Search
from sage.middleware.settings.retrieval import Retrieval


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
    opened = Collections(tmp_path, Retrieval(), NoModels())
    yield opened
    opened.close()


def test_tenants_do_not_meet(collections: Collections) -> None:
    collections.create("red", "notes").add([{"id": "1", "text": "secret of red"}])
    collections.create("blue", "notes").add([{"id": "1", "text": "secret of blue"}])
    assert collections.names("red") == ["notes"]
    assert collections.names("nobody") == []
    opened = collections.open("red", "notes").search(Search("secret"))
    assert [result.text for result in opened.results] == ["secret of red"]
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
    created = collections.create("t", "c", {"keywords": {"b": 0.5}, "metric": "dot"})
    assert (created.options.keywords.k1, created.options.keywords.b, created.options.metric) == (0.9, 0.5, "dot")
    with pytest.raises(InvalidRequest, match="metric"):
        collections.create("t", "d", {"metrics": "dot"})
    assert collections.names("t") == ["c"]
    collections.close()


def test_one_that_another_process_deleted_and_made_anew(tmp_path: Path) -> None:
    first, second = (Collections(tmp_path, Retrieval(), NoModels()) for _ in range(2))
    first.create("t", "c").add([{"id": "old", "text": "old"}])
    second.delete("t", "c")
    with pytest.raises(NotFound):
        first.open("t", "c")
    second.create("t", "c").add([{"id": "new", "text": "new"}])
    assert first.open("t", "c").get("new").text == "new"
    with pytest.raises(NotFound):
        first.open("t", "c").get("old")
    first.close()
    second.close()


def test_pages_of_documents_have_no_gaps(collections: Collections) -> None:
    created = collections.create("t", "c")
    created.add([{"id": f"d{number}", "text": "x", "metadata": {"even": number % 2 == 0}} for number in range(25)])
    for condition, expected in ((None, 25), ({"even": True}, 13)):
        seen_ids: list[str] = []
        cursor = None
        while True:
            documents, cursor = created.page(cursor, 4, condition)
            seen_ids += [document.id for document in documents]
            if cursor is None:
                break
        assert len(seen_ids) == expected
        assert seen_ids == [f"d{number}" for number in range(0, 25, 1 if condition is None else 2)]
    with pytest.raises(InvalidRequest, match="cursor"):
        created.page("nonsense")


def test_a_snapshot_is_restored_under_another_name(collections: Collections) -> None:
    created = collections.create("t", "c", {"keywords": {"variant": "okapi"}})
    created.add([{"id": "a", "text": "alpha", "metadata": {"n": 1}, "vector": [1, 2]}, {"id": "b", "text": "beta"}])
    stream = io.BytesIO()
    created.snapshot(stream)
    created.delete(["a"])
    stream.seek(0)
    restored = collections.restore("other", "copy", stream)
    assert list(restored.get("a", vector=True).vector) == [1.0, 2.0]
    assert restored.describe()["documents"] == 2
    assert restored.options.keywords.variant == "okapi"
    stream.seek(0)
    with pytest.raises(Conflict):
        collections.restore("other", "copy", stream)
    with pytest.raises(InvalidRequest):
        collections.restore("other", "cut", io.BytesIO(stream.getvalue()[:-20]))
    assert collections.names("other") == ["copy"]


def test_a_deletion_does_not_wait_for_who_reads_a_snapshot(collections: Collections) -> None:
    created = collections.create("t", "c")
    created.add([{"text": random.randbytes(1000).hex()} for _ in range(100)])
    deleting: list[threading.Thread] = []

    class Reader(io.RawIOBase):
        """Reads the first piece, and the next ones only when the collection is being deleted."""

        def write(self, data: object) -> int:
            if not deleting:
                deleting.append(threading.Thread(target=collections.delete, args=("t", "c")))
                deleting[0].start()
                while True:
                    try:
                        created.page(limit=1)
                    except NotFound:
                        break
            return len(data)  # type: ignore[arg-type]

    with pytest.raises(NotFound, match="was deleted"):
        created.snapshot(Reader())  # type: ignore[arg-type]
    deleting[0].join(10)
    assert not deleting[0].is_alive()
    assert collections.names("t") == []


def test_reranked_pages_are_one_list(collections: Collections) -> None:
    created = collections.create("t", "c")
    created.add([{"id": f"d{number:02}", "text": "word " * (1 + number * 7 % 20)} for number in range(20)])
    all_results = created.search(Search("word", mode=Mode.BM25, top_k=20, rerank="any", rerank_depth=12)).results
    assert [len(result.text) for result in all_results[:12]] == sorted(len(result.text) for result in all_results[:12])
    assert [result.score for result in all_results] == sorted((result.score for result in all_results), reverse=True)
    pages = [
        result.id
        for offset in range(0, 20, 3)
        for result in created.search(
            Search("word", mode=Mode.BM25, top_k=3, offset=offset, rerank="any", rerank_depth=12)
        ).results
    ]
    assert pages == [result.id for result in all_results]


@pytest.fixture
def five_open(tmp_path: Path) -> Iterator[Collections]:
    """Keeps five open instead of a hundred."""
    opened = Collections(tmp_path, Retrieval(), NoModels(), max_open=5)
    yield opened
    opened.close()


def test_many_collections_take_turns_being_open(five_open: Collections) -> None:
    for number in range(12):
        five_open.create("t", f"c{number}").add([{"id": "x", "text": f"text {number}"}])
    assert [five_open.open("t", f"c{number}").get("x").text for number in (0, 6, 11)] == ["text 0", "text 6", "text 11"]


def test_no_more_are_open_than_may_be_whoever_asks(five_open: Collections) -> None:
    created = [five_open.create("t", f"c{number}") for number in range(12)]
    for _ in range(2):
        for collection in created:
            assert five_open.open("t", collection.name).page()[0] == []
        assert sum(not collection.resting for collection in created) == 5


def test_an_outline_leaves_the_index_closed(collections: Collections) -> None:
    created = collections.create("t", "c")
    created.add([{"text": "one"}, {"text": "two"}])
    assert created.rest()
    outline = created.outline()
    assert created.resting
    described = created.describe()
    assert outline["documents"] == 2
    assert outline | {"bytes": 0} == {key: value for key, value in described.items() if key != "index"} | {"bytes": 0}
    assert created.outline()["documents"] == 2
    collections.delete("t", "c")
    with pytest.raises(NotFound, match="was deleted"):
        created.outline()


def test_a_collection_begins_with_its_first_documents_or_not_at_all(tmp_path: Path) -> None:
    settings = Retrieval.model_validate({"defaults": {"dimension": 2}})
    collections = Collections(tmp_path, settings, NoModels())
    with pytest.raises(InvalidRequest, match="dimension"):
        collections.create_with("t", "c", [{"text": "one"}, {"text": "two", "vector": [1, 2, 3]}])
    assert list((tmp_path / "t").iterdir()) == []
    written = collections.create_with("t", "c", [{"id": "1", "text": "one"}, {"id": "2", "text": "two"}])
    assert (written.ids, written.inserted) == (["1", "2"], 2)
    assert [result.id for result in collections.open("t", "c").search(Search("two")).results] == ["2"]
    with pytest.raises(Conflict) as taken:
        collections.create_with("t", "c", [{"id": "3", "text": "three"}])
    assert taken.value.code == "collection_exists"
    assert collections.open("t", "c").describe()["documents"] == 2
    collections.close()


def test_too_many_collections_is_said_also_by_a_first_write(tmp_path: Path) -> None:
    collections = Collections(tmp_path, Retrieval.model_validate({"limits": {"max_collections": 1}}), NoModels())
    collections.create("t", "c")
    with pytest.raises(Conflict, match="max_collections"):
        collections.open("t", "d", create=True)
    collections.close()


@pytest.mark.parametrize("name", [".new-1", ".restoring-1", ".deleted-1"])
def test_what_a_crash_left_is_swept_away_after_a_day(collections: Collections, tmp_path: Path, name: str) -> None:
    collections.create("t", "c")
    left, fresh, other = tmp_path / "t" / name, tmp_path / "t" / f"{name}2", tmp_path / "t" / ".mine"
    for directory in (left, fresh, other):
        (directory / "segments").mkdir(parents=True)
        (directory / "truth.db").write_bytes(b"x")
        for path in (directory, directory / "segments", directory / "truth.db"):
            os.utime(path, (0, 0))
    os.utime(fresh / "truth.db")  # somebody still writes to it
    collections.create("t", "d")
    assert not left.exists()
    assert fresh.exists()
    assert other.exists()
    assert collections.names("t") == ["c", "d"]


def test_a_page_goes_on_behind_what_was_deleted_meanwhile(
    collections: Collections, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = collections.create("t", "c")
    created.add([{"id": f"d{number}", "text": "x", "metadata": {"n": 1}} for number in range(10)])
    opened = collection_room.numbers_passing

    def and_then_deleted(view: View, condition: Filter, after: int = 0) -> object:
        numbers = opened(view, condition, after)
        created.delete(["d1", "d2", "d3"])
        return numbers

    monkeypatch.setattr(collection_room, "numbers_passing", and_then_deleted)
    documents, cursor = created.page(None, 4, {"n": 1})
    assert [document.id for document in documents] == ["d0"]
    documents, cursor = created.page(cursor, 4, {"n": 1})
    assert [document.id for document in documents] == ["d4", "d5", "d6", "d7"]
    documents, cursor = created.page(cursor, 4, {"n": 1})
    assert ([document.id for document in documents], cursor) == (["d8", "d9"], None)


@pytest.mark.slow
@pytest.mark.parametrize("condition", [None, {"n": 1}])
def test_a_page_of_large_documents_is_shorter(collections: Collections, condition: dict[str, object] | None) -> None:
    created = collections.create("t", "c")
    for number in range(5):
        created.add([{"id": f"{number}{n}", "text": "x" * 2**20, "metadata": {"n": 1}} for n in range(8)])
    sizes, cursor = [], None
    while not sizes or cursor is not None:
        documents, cursor = created.page(cursor, 100, condition)
        sizes.append(len(documents))
    assert sizes == [16, 16, 8]


def test_an_answer_holds_no_more_than_the_limit(tmp_path: Path) -> None:
    collections = Collections(tmp_path, Retrieval.model_validate({"limits": {"max_answer": 10_000}}), NoModels())
    created = collections.create("t", "c")
    created.add([{"text": f"word {'x' * 990}"} for _ in range(20)])
    assert len(created.search(Search("word", top_k=9)).results) == 9
    assert [len(each.results) for each in created.search_many([Search("word", top_k=4)] * 2)] == [4, 4]
    for searches in ([Search("word", top_k=11)], [Search("word", top_k=4)] * 3):
        with pytest.raises(InvalidRequest, match=r"max_answer") as refused:
            created.search_many(searches)
        assert (refused.value.code, refused.value.param) == ("answer_too_large", "top_k")
    collections.close()


def test_what_another_process_deleted_is_not_found(tmp_path: Path) -> None:
    one_process, other_process = (Collections(tmp_path, Retrieval(), NoModels()) for _ in range(2))
    one_process.create("t", "c").add([{"id": "1", "text": "word"}])
    opened = other_process.open("t", "c")
    assert opened.search(Search("word")).total == 1
    one_process.delete("t", "c")
    with pytest.raises(NotFound) as refused:
        opened.add([{"text": "more"}])
    assert refused.value.code == "collection_not_found"
    assert opened.rest()
    with pytest.raises(NotFound):
        opened.search(Search("word"))
    one_process.create("t", "c").add([{"id": "2", "text": "word"}])
    assert [result.id for result in other_process.open("t", "c").search(Search("word")).results] == ["2"]
    one_process.close()
    other_process.close()
