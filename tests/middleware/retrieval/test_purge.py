"""Hard deletion: after a purge, no byte of what was deleted or replaced is left in any file of a collection."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_worker import Process

from sage.errors import Unavailable
from sage.middleware.retrieval.index.merge_policy import MergeLease
from sage.middleware.retrieval.types.search import Mode, Search
from sage.middleware.retrieval.vector_store import VectorStore

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads

DIMENSION = 24
FULL = bool(os.environ.get("SAGE_TEST_FULL"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VectorStore]:
    with VectorStore(tmp_path / "c", embedder=None) as store:
        yield store


def secret(word: str) -> dict[str, Any]:
    """A document whose id, text, metadata and vector can be recognised in any file."""
    return {
        "id": f"id-of-{word}",
        "text": f"text {word}text and more of it",
        "metadata": {f"key{word}": f"value{word}", "n": 3, "list": [f"item{word}"]},
        "vector": vector_of(word).tolist(),
    }


def vector_of(word: str) -> np.ndarray:
    return np.random.default_rng(list(word.encode())).normal(size=DIMENSION).astype(np.float32)


def traces(directory: Path, word: str) -> list[str]:
    """The files that still contain a word of the document, or its vector."""
    marks = [word.encode(), vector_of(word).tobytes(), vector_of(word)[5:9].tobytes()]
    marks += [word.encode("utf-16-le"), word.upper().encode()]
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files
    return sorted(str(path) for path in files if any(mark in path.read_bytes() for mark in marks))


def plain(start: int, count: int, words: str = "some plain words") -> list[dict[str, Any]]:
    generator = np.random.default_rng(start)
    return [
        {
            "id": f"p{number}",
            "text": f"{words} {number}",
            "metadata": {"n": number % 5},
            "vector": generator.normal(size=DIMENSION).astype(np.float32).tolist(),
        }
        for number in range(start, start + count)
    ]


def check(store: VectorStore, expected: list[str], *, killed: bool = False) -> None:
    """All remaining documents are found by words, by vectors and by id. A ``killed`` one may have left files."""
    collection = store.collection
    listed, _ = collection.page(limit=1000)
    assert [document.id for document in listed] == expected
    if not expected:
        return
    first = collection.get(expected[0], vector=True)
    assert first.vector is not None
    near = collection.search(Search(vector=first.vector, mode=Mode.DENSE, top_k=1))
    assert [result.id for result in near.results] == expected[:1]
    assert near.total == len(expected)
    problems = collection.describe()["index"]["problems"]
    assert [problem for problem in problems if not (killed and "is in no manifest; it was removed" in problem)] == []


def test_after_one_add_nothing_is_left(store: VectorStore, tmp_path: Path) -> None:
    store.collection.add([secret("quixotry")])
    assert traces(tmp_path, "quixotry")
    store.delete(["id-of-quixotry"])
    assert traces(tmp_path, "quixotry")  # deletion alone does not do it
    store.purge()
    assert traces(tmp_path, "quixotry") == []
    check(store, [])


def test_after_merges_and_updates_nothing_is_left(store: VectorStore, tmp_path: Path) -> None:
    store.collection.add([*plain(0, 300), secret("quixotry"), secret("flummery")])
    store.optimize()
    store.collection.add([*plain(300, 300), secret("skulduggery")])
    store.optimize()
    store.collection.add(plain(600, 50))
    store.collection.add([{**secret("quixotry"), "text": "quite another text", "metadata": {}, "vector": None}])
    store.delete(filter={"keyflummery": "valueflummery"})
    store.purge()
    assert traces(tmp_path, "quixotrytext") == []
    assert traces(tmp_path, "valuequixotry") == []
    assert traces(tmp_path, "flummery") == []
    assert traces(tmp_path, "skulduggery") != []
    store.delete(["id-of-quixotry", "id-of-skulduggery"])
    store.purge()
    for word in ("quixotry", "flummery", "skulduggery"):
        assert traces(tmp_path, word) == []
    check(store, [f"p{number}" for number in range(650)])


@pytest.mark.slow
def test_large_documents_and_rows_that_pages_were_cut_around_leave_nothing(store: VectorStore, tmp_path: Path) -> None:
    generator = random.Random(2)
    living: list[str] = []
    removed: list[str] = []
    for step in range(30 if FULL else 10):
        ids = [
            f"<{(step * 150 + n) * 7919 % 100_003:06d}{'x' * generator.choice([0, 5, 400, 30])}#{step}-{n}>"
            for n in range(generator.randrange(1, 150))
        ]
        store.collection.add(
            [{"id": id, "text": "", "metadata": {"pad": "y" * generator.choice([1, 3000])}} for id in ids]
        )
        store.collection.add([{**secret(f"quixotry{step}z"), "text": f"quixotry{step}z " * 3000}])
        living += ids
        generator.shuffle(living)
        some = len(living) // generator.choice([3, 10])
        removed += [*living[:some], f"id-of-quixotry{step}z"]
        store.delete([*living[:some], f"id-of-quixotry{step}z"])
        del living[:some]
    store.purge()
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert [id for id in removed if id[-12:].encode() in content] == []
    assert b"quixotry" not in content
    assert len(store) == len(living)


def test_the_last_search_is_not_kept_in_memory(store: VectorStore) -> None:
    store.collection.add([*plain(0, 5), secret("quixotry")])
    assert [result.id for result in store.search("quixotrytext", mode="bm25")] == ["id-of-quixotry"]
    store.delete(["id-of-quixotry"])
    store.purge()
    segments = store.collection._files.index.current().segments  # type: ignore[union-attr]
    assert [segment.size for segment in segments] == [5]
    assert all(segment.keywords.postings("quixotrytext")[0].size == 0 for segment in segments)


def test_only_segments_with_dead_rows_are_rewritten(store: VectorStore, tmp_path: Path) -> None:
    store.collection.add(plain(0, 400))
    store.optimize()
    segments = {path.name for path in (tmp_path / "c" / "segments").iterdir()}
    store.collection.add([*plain(400, 300), secret("quixotry")])
    files = store.collection._files
    assert files is not None
    files.index._maintenance.step(idle=True)
    store.delete(["id-of-quixotry"])
    store.purge()
    assert traces(tmp_path, "quixotry") == []
    assert segments <= {path.name for path in (tmp_path / "c" / "segments").iterdir()}
    written = (tmp_path / "c" / "truth.db").read_bytes()
    store.purge()
    assert (tmp_path / "c" / "truth.db").read_bytes() == written


def test_a_store_in_memory_is_purged_too() -> None:
    with VectorStore(embedder=None) as store:
        store.collection.add([*plain(0, 5), secret("quixotry")])
        store.delete(["id-of-quixotry"])
        store.purge()
        check(store, [f"p{number}" for number in range(5)])
        files = store.collection._files
        assert files is not None
        assert [segment.size for segment in files.index.current().segments] == [5]
        with files.store._connections.reading() as connection:
            assert b"quixotry" not in connection.serialize()


def test_files_that_a_crash_left_are_removed_as_well(store: VectorStore, tmp_path: Path) -> None:
    store.collection.add([*plain(0, 300), secret("quixotry")])
    store.optimize()
    directory = tmp_path / "c" / "segments"
    file = next(directory.glob("*.seg"))
    (directory / f"{file.stem[:-8]}deadbeef.seg").write_bytes(file.read_bytes())
    (directory / f"{file.name}.tmp").write_bytes(file.read_bytes())
    store.delete(["id-of-quixotry"])
    store.purge()
    assert traces(tmp_path, "quixotry") == []


def test_a_file_that_cannot_be_removed_is_reported(store: VectorStore, tmp_path: Path) -> None:
    store.collection.add([*plain(0, 300), secret("quixotry")])
    store.optimize()
    stray = tmp_path / "c" / "segments" / f"{'0' * 16}-{'0' * 16}-deadbeef.seg"
    stray.mkdir()
    (stray / "in the way").touch()
    store.delete(["id-of-quixotry"])
    with pytest.raises(Unavailable, match=r"not yet purged: its old index file '0+-0+-deadbeef.seg' cannot be removed"):
        store.purge()
    (stray / "in the way").unlink()
    store.purge()
    assert not stray.exists()
    assert traces(tmp_path, "quixotry") == []


def test_a_reader_of_an_older_state_delays_it_for_a_bounded_time(store: VectorStore, tmp_path: Path) -> None:
    store.collection.add([*plain(0, 20), secret("quixotry")])
    files = store.collection._files
    assert files is not None
    with files.store.reading() as reading:
        assert reading.count() == 21
        store.delete(["id-of-quixotry"])
        with pytest.raises(Unavailable, match="collection 'c' is not yet purged: a process still reads") as refused:
            store.purge(0.2)
        assert refused.value.code == "not_yet_purged"
        assert reading.count() == 21
    store.purge()
    assert traces(tmp_path, "quixotry") == []


def test_maintenance_of_the_index_delays_it_for_a_bounded_time(store: VectorStore, tmp_path: Path) -> None:
    store.collection.add([*plain(0, 20), secret("quixotry")])
    store.delete(["id-of-quixotry"])
    with MergeLease(tmp_path / "c" / "segments" / "lease").attempt() as acquired:
        assert acquired
        with pytest.raises(Unavailable, match="is being worked on") as refused:
            store.purge(0.2)
    assert refused.value.code == "not_yet_purged"
    store.purge()
    assert traces(tmp_path, "quixotry") == []


def test_writes_and_searches_go_on_meanwhile(store: VectorStore, tmp_path: Path) -> None:
    store.collection.add([*plain(0, 300), *(secret(f"quixotry{number}x") for number in range(8))])
    faults: list[BaseException] = []
    ended = threading.Event()

    def write() -> None:
        number = 1000
        try:
            while not ended.is_set():
                store.collection.add(plain(number, 3))
                assert store.search("plain", top_k=1, mode="bm25")
                number += 3
        except BaseException as exc:
            faults.append(exc)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(8):
            store.delete([f"id-of-quixotry{number}x"])
            store.purge()
            assert traces(tmp_path, f"quixotry{number}x") == []
    finally:
        ended.set()
        thread.join()
    assert faults == []
    count = len(store)
    store.optimize()
    assert len(store) == count
    assert store.collection.search(Search("plain", mode=Mode.BM25)).total == count


@pytest.mark.slow
def test_a_second_process_that_reads_and_writes_leaves_no_trace_either(store: VectorStore, tmp_path: Path) -> None:
    with Process() as other:
        other.do("open", path=str(tmp_path / "c"))
        other.do("add", documents=[*plain(0, 300), secret("quixotry")])
        other.do("optimize")
        assert other.do("search", mode="bm25", query="quixotrytext")["total"] == 1
        store.delete(["id-of-quixotry"])
        store.purge()
        assert traces(tmp_path, "quixotry") == []
        assert other.do("search", mode="bm25", query="quixotrytext")["total"] == 0
        other.do("add", documents=plain(300, 300))
        other.do("optimize")
        assert traces(tmp_path, "quixotry") == []
        other.do("close")
    assert traces(tmp_path, "quixotry") == []
    check(store, [f"p{number}" for number in range(600)])


@pytest.mark.slow
def test_a_process_that_dies_while_it_purges_loses_nothing(tmp_path: Path) -> None:
    generator = random.Random(4)
    living = [f"p{number}" for number in range(600)]
    with VectorStore(tmp_path / "c", embedder=None) as store:
        store.collection.add([*plain(0, 600), *(secret(f"quixotry{number}x") for number in range(40))])
        store.optimize()
    for number in range(40 if FULL else 4):
        with Process() as victim:
            victim.do("open", path=str(tmp_path / "c"))
            victim.do("delete", ids=[f"id-of-quixotry{number}x"])
            victim.send("purge")
            time.sleep(generator.random() * 0.05)  # when it dies is left to chance
            victim.kill()
    with VectorStore(tmp_path / "c", embedder=None) as store:
        store.delete([f"id-of-quixotry{number}x" for number in range(40)])
        store.purge()
        check(store, living, killed=True)
    assert traces(tmp_path, "quixotry") == []


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 30), st.integers(1, 8)),
        st.tuples(st.just("large"), st.integers(0, 30), st.integers(1, 3)),
        st.tuples(st.just("delete"), st.integers(0, 30), st.integers(1, 8)),
        st.tuples(st.just("optimize"), st.just(0), st.just(0)),
        st.tuples(st.just("purge"), st.just(0), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0), st.just(0)),
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(deadline=None)
@given(steps=steps)
def test_after_any_history_nothing_is_left(
    steps: list[tuple[str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("purge")
    store = VectorStore(directory / "c", embedder=None)
    living: dict[int, str] = {}
    removed: set[str] = set()
    try:
        for version, (step, start, count) in enumerate([*steps, ("purge", 0, 0)]):
            if step in ("add", "large"):
                documents = []
                for number in range(start, start + count):
                    if number in living:
                        removed.add(living[number])
                    living[number] = f"zyx{number}v{version}q"
                    document = {**secret(living[number]), "id": str(number)}
                    if step == "large":
                        document["text"] += (living[number] + " ") * 3000
                    documents.append(document)
                store.collection.add(documents)
            elif step == "delete":
                chosen = [number for number in range(start, start + count) if number in living]
                removed |= {living.pop(number) for number in chosen}
                assert store.delete([str(number) for number in range(start, start + count)]) == len(chosen)
            elif step == "optimize":
                store.optimize()
            elif step == "reopen":
                store.close()
                store = VectorStore(directory / "c", embedder=None)
            else:
                store.purge()
                assert [word for word in removed if traces(directory, word)] == []
        for number, word in living.items():
            assert store.get(str(number)).metadata[f"key{word}"] == f"value{word}"
        assert len(store) == len(living)
    finally:
        store.close()
