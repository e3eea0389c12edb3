"""The documents of a collection: it has what was acknowledged, and nothing that was refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from sage.errors import Conflict, InvalidRequest, Unavailable
from sage.middleware.retrieval.store.store import Change, Commit, DocumentStore, SegmentRecord, StaleVectors
from sage.middleware.retrieval.types.documents import NewDocument, Row
from sage.middleware.settings.retrieval import CollectionOptions

OPTIONS = CollectionOptions(embedder="none")
Make = Callable[..., DocumentStore]


def no_index(_: Commit) -> None:
    """For writes whose commits no index follows."""


def vector(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)


def document(id: str, text: str = "text", *numbers: float) -> NewDocument:
    return NewDocument(id, text, b'{"a":1}', vector(*numbers) if numbers else None)


def rows_of(store: DocumentStore, after: int = 0) -> list[Row]:
    with store.reading() as reading:
        return [row for batch in reading.rows(after) for row in batch]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], DocumentStore]]:
    with ExitStack() as stack:

        def one(dimension: int | None = None) -> DocumentStore:
            store = DocumentStore.create(tmp_path / "c", "c", OPTIONS, None, None, dimension)
            stack.callback(store.close)
            return store

        yield one


@pytest.fixture(params=["files", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DocumentStore]:
    made = DocumentStore.create(tmp_path / "c" if request.param == "files" else None, "c", OPTIONS, None, None, None)
    yield made
    made.close()


def test_documents_come_back_as_they_were(store: DocumentStore) -> None:
    texts = ["plain", "", "zero\x00byte", "表情 🙂", "a" * 100_000]
    new = [NewDocument(f"id {n}", text, b'{"n":%d}' % n, vector(n, 1)) for n, text in enumerate(texts)]
    written = store.write(Change(new), no_index)
    assert written.ids == [each.id for each in new]
    assert (written.inserted, written.updated, written.deleted) == (5, 0, 0)
    rows = rows_of(store)
    assert [(row.number, row.id, row.text, row.metadata) for row in rows] == [
        (n + 1, each.id, each.text, each.metadata) for n, each in enumerate(new)
    ]
    assert [row.vector.tolist() for row in rows if row.vector is not None] == [[n, 1] for n in range(5)]
    with store.reading() as reading:
        assert reading.fetch([2, 99]) == {2: Row(2, "id 1", "", b'{"n":1}')}
        assert reading.by_id(["id 3", "no such"], vectors=True)["id 3"].vector.tolist() == [3, 1]
        assert reading.count() == 5
        assert reading.identity.dimension == 2


def test_counters_say_what_a_write_did(store: DocumentStore) -> None:
    store.write(Change([document("a"), document("b"), document("c"), document("d")]), no_index)
    written = store.write(
        Change([document("b", "new"), document("e"), document("a")], ["a", "x", "a"], [3, 3, 77]), no_index
    )
    assert written.ids == ["b", "e", "a"]
    assert (written.inserted, written.updated, written.deleted) == (2, 1, 2)
    assert [(row.number, row.id) for row in rows_of(store)] == [(4, "d"), (8, "b"), (9, "e"), (10, "a")]
    with store.reading() as reading:
        assert reading.sequence == 10
        assert reading.count() == 4
        assert reading.deletions(0).tolist() == [1, 3, 2]
        assert reading.deletions(6).tolist() == [2]


def test_a_change_without_effect_is_no_commit(store: DocumentStore) -> None:
    store.write(Change([document("a")]), no_index)
    before, commits = store.version(), []
    assert store.write(Change(delete_ids=["no such", "a\x00"]), commits.append).deleted == 0
    assert commits == []
    with store.reading() as reading:
        assert reading.sequence == 1
    if store.directory is not None:
        assert store.version() == before


def test_the_first_vector_decides_the_dimension(store: DocumentStore) -> None:
    store.write(Change([document("a"), document("b", "text", 1, 2, 3)]), no_index)
    assert store.identity.dimension == 3
    with pytest.raises(InvalidRequest, match=r"documents\[1\].* 2 dimensions.* have 3") as caught:
        store.write(Change([document("c", "text", 1, 2, 3), document("d", "text", 1, 2)]), no_index)
    assert caught.value.code == "wrong_dimension"
    with pytest.raises(InvalidRequest, match="is given twice"):
        store.write(Change([document("c"), document("c")]), no_index)
    assert [row.id for row in rows_of(store)] == ["a", "b"]
    with store.reading() as reading:
        matrix, present = reading.vectors(np.array([2, 1, 9]))
    assert matrix.tolist() == [[1, 2, 3], [0, 0, 0], [0, 0, 0]]
    assert present.tolist() == [True, False, False]


def test_vectors_of_another_generation_are_refused(store: DocumentStore) -> None:
    store.write(Change([document("a", "text", 1, 2)], generation=0), no_index)
    number = store.begin_generation("other", frozenset({"en"}), 1)
    store.put_vectors(number, {1: vector(7)}, 1)
    assert store.switch_generation(number, "other", 1, 0, lambda rows: {})
    with pytest.raises(StaleVectors):
        store.write(Change([document("b", "text", 1, 2)], generation=0), no_index)
    store.write(Change([document("b", "text", 9)], generation=number), no_index)
    assert [row.vector.tolist() for row in rows_of(store)] == [[7], [9]]
    assert store.identity.embedder == "other"
    assert store.identity.options.embedder == "other"
    store.discard_generation(0)
    with store.reading() as reading:
        assert list(reading.generations()) == [number]


def test_a_generation_that_is_filled_follows_deletions(store: DocumentStore) -> None:
    store.write(Change([document(f"d{n}", "text", n) for n in range(40)]), no_index)
    number = store.begin_generation("other", None, None)
    store.put_vectors(number, {n: vector(n, 0) for n in range(1, 31)}, 30)
    store.write(Change([document("d0", "new", 5)], delete_ids=["d5", "d35"]), no_index)
    store.put_vectors(number, {6: vector(6, 0), 32: vector(32, 0)}, 31)  # 6 was deleted, so it is not stored
    with store.reading() as reading:
        assert reading.numbers_without_vectors(number).tolist() == [31, *range(33, 36), *range(37, 41), 44]
        assert reading.numbers_without_vectors(number, 33, 2).tolist() == [34, 35]
        assert reading.generations()[number].reached == 32
        matrix, present = reading.vectors(np.array([2, 6, 1, 32]), generation=number)
    assert matrix.tolist() == [[2, 0], [0, 0], [0, 0], [32, 0]]
    assert present.tolist() == [True, False, False, True]
    store.discard_generation(number)
    with pytest.raises(Conflict):
        store.put_vectors(number, {2: vector(1, 1)}, 1)


def test_a_reading_sees_one_state(make: Callable[[], DocumentStore]) -> None:
    store = make()
    store.write(Change([document(f"d{n}", "old", n) for n in range(2500)]), no_index)
    with store.reading() as reading:
        batches = reading.rows(0)
        first = next(batches)
        store.write(Change([document(f"d{n}", "new", n) for n in range(2500)]), no_index)
        rows = first + [row for batch in batches for row in batch]
        assert reading.count() == 2500
        assert reading.vectors(np.arange(1, 2501))[1].all()
    assert len(first) == 1000
    assert [row.text for row in rows] == ["old"] * 2500
    assert [row.vector.tolist() for row in rows] == [[n] for n in range(2500)]
    assert {row.text for row in rows_of(store)} == {"new"}


def test_in_memory_a_reader_keeps_the_writer_waiting() -> None:
    store = DocumentStore.create(None, "memory", OPTIONS, None, None, None)
    with ThreadPoolExecutor(1) as pool:
        with store.reading() as reading:
            writing = pool.submit(store.write, Change([document("a")]), no_index)
            with store.reading() as inner:
                assert inner.count() == reading.count() == 0
            assert not writing.done()
        assert writing.result().inserted == 1
    assert len(rows_of(store)) == 1
    store.close()


@pytest.mark.slow
def test_batches_are_bounded_by_bytes_too(store: DocumentStore) -> None:
    store.write(Change([document(f"d{n}", "x" * 2**20) for n in range(40)] + [document("e")]), no_index)
    with store.reading() as reading:
        sizes = [len(batch) for batch in reading.rows(0, vectors=False)]
        assert [row.number for batch in reading.rows(3, through=5) for row in batch] == [4, 5]
    assert sum(sizes) == 41
    assert max(sizes) < 41 or sizes == [41]


def test_the_version_changes_with_any_commit(make: Callable[[], DocumentStore], tmp_path: Path) -> None:
    store = make()
    before = store.version()
    assert store.version() == before
    store.write(Change([document("a")]), no_index)
    own = store.version()
    assert own != before
    other = DocumentStore.open(tmp_path / "c")
    other.write(Change([document("b", "text", 1, 2)]), no_index)
    assert store.version() != own
    assert store.identity.dimension == 2
    other.close()


def test_commits_are_published_completely_and_in_order(store: DocumentStore) -> None:
    """Many threads add, update and delete; all published commits together are what is stored."""
    live: dict[int, Row] = {}
    sequences = [0]

    def publish(commit: Commit) -> None:
        assert commit.before == sequences[-1]
        sequences.append(commit.sequence)
        assert [row.number for row in commit.rows] == sorted({row.number for row in commit.rows})
        assert not {row.number for row in commit.rows} & set(commit.deleted)
        for number in commit.deleted:
            live.pop(number, None)
        live.update({row.number: row for row in commit.rows})

    def work(thread: int) -> None:
        for n in range(40):
            ids = [f"{(thread + n + i) % 25}" for i in range(3)]
            store.write(Change([document(id, f"{thread} {n}", thread, n) for id in ids], [f"{n % 30}"]), publish)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    there = {row.number: row for row in rows_of(store)}
    assert live.keys() == there.keys()
    for number, row in there.items():
        assert (live[number].id, live[number].text) == (row.id, row.text)
        assert live[number].vector.tolist() == row.vector.tolist()
    with store.reading() as reading:
        assert reading.sequence == sequences[-1]
        assert reading.count() == len(there)


def test_a_bad_write_does_not_fail_the_others_of_its_commit(store: DocumentStore) -> None:
    store.write(Change([document("first", "text", 1, 2)]), no_index)
    entered, go_on = threading.Event(), threading.Event()
    commits: list[Commit] = []

    def slow(commit: Commit) -> None:
        entered.set()
        assert go_on.wait(30)

    changes = [
        Change([document("good 1", "text", 3, 4)]),
        Change([document("good 2"), document("bad", "text", 1, 2, 3)]),
        Change([document("good 1", "again"), document("odd", "no \ud800 text")]),
        Change([document("good 3")], ["good 1"]),
    ]
    with ThreadPoolExecutor(5) as pool:
        blocking = pool.submit(store.write, Change([document("second")]), slow)
        assert entered.wait(30)
        futures = []
        for change in changes:  # one after the other, so that their order is known
            futures.append(pool.submit(store.write, change, commits.append))
            while store._writer.waiting < len(futures):
                threading.Event().wait(0.001)
        go_on.set()
        assert blocking.result().inserted == 1
        assert futures[0].result().inserted == 1
        assert isinstance(futures[1].exception(), InvalidRequest)
        assert isinstance(futures[2].exception(), UnicodeEncodeError)
        assert futures[3].result().deleted == 1
    assert [row.id for row in rows_of(store)] == ["first", "second", "good 3"]
    assert len(commits) == 1
    assert [row.id for row in commits[0].rows] == ["good 3"]
    assert commits[0].deleted == [3]


def test_an_index_that_fails_does_not_undo_what_is_durable(store: DocumentStore) -> None:
    def fail(_: Commit) -> None:
        raise RuntimeError("the index is broken")

    assert store.write(Change([document("a")]), fail).inserted == 1
    assert store.write(Change([document("b")]), no_index).inserted == 1
    assert [row.id for row in rows_of(store)] == ["a", "b"]


def test_closing_waits_for_what_is_being_written(store: DocumentStore) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(_: Commit) -> None:
        entered.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(3) as pool:
        writing = pool.submit(store.write, Change([document("a")]), slow)
        assert entered.wait(30)
        waiting = pool.submit(store.write, Change([document("b")]), no_index)
        while not store._writer.waiting:
            threading.Event().wait(0.001)
        closing = pool.submit(store.close)
        go_on.set()
        closing.result()
        assert writing.result().inserted == waiting.result().inserted == 1
    with pytest.raises(Unavailable, match="closed"):
        store.write(Change([document("c")]), no_index)
    with pytest.raises(Unavailable, match="closed"), store.reading():
        pass
    store.close()


def segment(name: str, low: int, high: int) -> SegmentRecord:
    return SegmentRecord(name, low, high, high - low, f"{name}.seg", 10, "ab" * 16, f"{name}.vec", 5, "cd", "sq8", 3)


def test_the_manifest_changes_at_once_or_not_at_all(store: DocumentStore) -> None:
    store.write(Change([document(f"d{n}") for n in range(10)]), no_index)
    store.write(Change(delete_ids=["d1", "d2", "d7"]), no_index)
    none = np.empty(0, np.int64)
    assert store.replace_segments([], [segment("b", 6, 10), segment("a", 1, 5)], np.array([2, 3]))
    with store.reading() as reading:
        assert reading.segments() == [segment("a", 1, 5), segment("b", 6, 10)]
        assert reading.deletions(0).tolist() == [8]
    before = store.version()
    assert not store.replace_segments(["a", "x"], [segment("c", 1, 5)], np.array([8]))
    assert not store.replace_segments(["a"], [segment("c", 1, 6)], np.array([8]))
    with store.reading() as reading:
        assert reading.segments() == [segment("a", 1, 5), segment("b", 6, 10)]
        assert reading.deletions(0).tolist() == [8]
    if store.directory is not None:
        assert store.version() == before
    assert store.replace_segments(["a", "b"], [segment("a", 1, 10)], none)
    with store.reading() as reading:
        assert reading.segments() == [segment("a", 1, 10)]


def test_only_one_run_reembeds(make: Callable[[], DocumentStore], tmp_path: Path) -> None:
    store, other = make(), DocumentStore.open(tmp_path / "c")
    with store.reembedding() as acquired:
        assert acquired
        with store.reembedding() as second, other.reembedding() as third:
            assert not second
            assert not third
    with other.reembedding() as acquired:
        assert acquired
    other.close()


@pytest.mark.slow
def test_the_log_stays_short_with_readers_all_the_time(make: Callable[[], DocumentStore], tmp_path: Path) -> None:
    store = make()
    log = tmp_path / "c" / "truth.db-wal"
    over = threading.Event()
    largest = 0

    def read() -> None:
        while not over.is_set():
            with store.reading() as reading:
                reading.fetch([1])

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for n in range(160):
            store.write(Change([document(f"{n} {i}", f"{n} {i} " * 20_000) for i in range(10)]), no_index)
            largest = max(largest, log.stat().st_size)
        over.set()
        for reader in readers:
            reader.result()
    assert (tmp_path / "c" / "truth.db").stat().st_size > 150 * 2**20
    assert largest < 110 * 2**20
    store.close()
    assert not log.exists()
