"""Another embedder makes all vectors, while the old ones serve."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from project import ROOT

from sage.errors import Conflict, UpstreamFailed
from sage.middleware.retrieval.collection import Collection
from sage.middleware.retrieval.collections import Collections
from sage.middleware.retrieval.embedding.builtin import EARLIER_MINILM, MINILM, builtin_embedder
from sage.middleware.retrieval.embedding.protocols import Embedder, Reranker
from sage.middleware.retrieval.embedding.registry import ModelsByName
from sage.middleware.retrieval.types.search import Mode, Search
from sage.middleware.retrieval.vector_store import VectorStore
from sage.middleware.settings.retrieval import Retrieval

pytestmark = pytest.mark.slow

TEXTS = {"cat": "The cat sleeps on the sofa.", "tax": "Taxes are due in April."}


class Hashed:
    """An embedder whose vectors depend on the text and its own name only. ``before`` may wait or fail."""

    languages: frozenset[str] | None = None

    def __init__(self, name: str, dimension: int) -> None:
        self.name = name
        self.dimension: int | None = dimension
        self._size = dimension
        self.embedded: list[str] = []
        self.before: Callable[[Sequence[str]], None] = lambda texts: None

    def embed(self, texts: Sequence[str], *, query: bool = False) -> np.ndarray:
        if not query:
            self.before(texts)
            self.embedded += texts
        return np.stack([self.vector(text) for text in texts]) if texts else np.empty((0, self._size), np.float32)

    def vector(self, text: str) -> np.ndarray:
        digest = hashlib.sha256(f"{self.name}\n{text}".encode()).digest()
        return np.frombuffer(digest, np.uint8)[: self._size].astype(np.float32) - 127.5


class HashedModels:
    """Embedders by name."""

    def __init__(self, *embedders: Hashed) -> None:
        self._embedders = {embedder.name: embedder for embedder in embedders}

    def embedder(self, name: str) -> Embedder | None:
        return None if name == "none" else self._embedders[name]

    def reranker(self, name: str) -> Reranker:
        raise NotImplementedError


@pytest.fixture
def old() -> Hashed:
    return Hashed("old", 4)


@pytest.fixture
def new() -> Hashed:
    return Hashed("new", 8)


@pytest.fixture
def collections(tmp_path: Path, old: Hashed, new: Hashed) -> Iterator[Collections]:
    opened = Collections(tmp_path, Retrieval(), HashedModels(old, new, Hashed("third", 6)))
    yield opened
    opened.close()


def made(collections: Collections, count: int = 50, embedder: str = "old") -> Collection:
    collection = collections.create("t", "c", {"embedder": embedder})
    if count:
        collection.add([{"id": f"d{number}", "text": f"text {number}"} for number in range(count)])
    return collection


def assert_embedded(collection: Collection, embedder: Hashed, texts: dict[str, str]) -> None:
    """Every document has that embedder's vector and is found by it, and there are no others."""
    stored = {}
    cursor = None
    while True:
        page, cursor = collection.page(cursor)
        stored.update({document.id: document.text for document in page})
        if cursor is None:
            break
    assert stored == texts
    for id, text in texts.items():
        vector = collection.get(id, vector=True).vector
        assert vector is not None, id
        assert np.array_equal(vector, embedder.vector(text)), id
    described = collection.describe()
    assert (described["embedder"], described["dimension"]) == (embedder.name, embedder.dimension)
    assert described["reembedding"] is None
    for text in list(texts.values())[:: max(1, len(texts) // 7)]:
        answer = collection.search(Search(query=text, mode=Mode.DENSE, top_k=3, exact=True))
        assert answer.results[0].text == text
        assert answer.results[0].scores["dense"] == pytest.approx(1, abs=1e-5)


def texts_of(count: int) -> dict[str, str]:
    return {f"d{number}": f"text {number}" for number in range(count)}


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Starts ``work``. The returned function waits for its end, and returns its result or raises what it raised."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as exc:
            outcome.append((None, exc))

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> Any:
        thread.join(60)
        assert outcome, "it did not end"
        result, error = outcome[0]
        if error is not None:
            raise error
        return result

    return join


class Gate:
    """Stops an embedder at its ``at``-th batch until the gate is opened."""

    def __init__(self, at: int = 1) -> None:
        self._left = at
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, texts: Sequence[str]) -> None:
        self._left -= 1
        if self._left == 0:
            self.reached.set()
            assert self.opened.wait(30)


def test_all_vectors_are_replaced(collections: Collections, new: Hashed) -> None:
    collection = made(collections)
    reports: list[tuple[int, int]] = []
    collection.reembed("new", lambda done, total: reports.append((done, total)))
    assert_embedded(collection, new, texts_of(50))
    assert collection.options.embedder == "new"
    assert reports == sorted(reports)
    assert reports[-1] == (50, 50)
    collection.add([{"id": "later", "text": "after all"}])
    assert_embedded(collection, new, texts_of(50) | {"later": "after all"})


def test_new_vectors_are_there_after_a_restart(
    collections: Collections, tmp_path: Path, old: Hashed, new: Hashed
) -> None:
    made(collections).reembed("new")
    collections.close()
    again = Collections(tmp_path, Retrieval(), HashedModels(old, new))
    assert_embedded(again.open("t", "c"), new, texts_of(50))
    again.close()


def test_the_old_vectors_serve_until_it_is_done(collections: Collections, old: Hashed, new: Hashed) -> None:
    collection = made(collections)
    gate = new.before = Gate(at=2)
    join = in_thread(lambda: collection.reembed("new"))
    assert gate.reached.wait(30)
    assert_old = collection.describe()
    assert (assert_old["embedder"], assert_old["dimension"]) == ("old", 4)
    answer = collection.search(Search(query="text 7", mode=Mode.DENSE, top_k=1, exact=True))
    assert answer.results[0].id == "d7"
    assert answer.results[0].scores["dense"] == pytest.approx(1, abs=1e-5)
    assert np.array_equal(collection.get("d7", vector=True).vector, old.vector("text 7"))
    gate.opened.set()
    join()
    assert_embedded(collection, new, texts_of(50))


def test_writes_meanwhile_end_up_embedded_too(collections: Collections, new: Hashed) -> None:
    collection = made(collections)
    gate = new.before = Gate(at=2)
    join = in_thread(lambda: collection.reembed("new"))
    assert gate.reached.wait(30)
    collection.add([{"id": "d3", "text": "changed"}, {"id": "d40", "text": "changed too"}, {"id": "n", "text": "new"}])
    assert collection.delete(["d5", "d45"]) == 2
    gate.opened.set()
    join()
    expected = texts_of(50) | {"d3": "changed", "d40": "changed too", "n": "new"}
    del expected["d5"], expected["d45"]
    assert_embedded(collection, new, expected)


@pytest.mark.parametrize("writes", [1, 25])
def test_it_ends_with_writes_all_the_time(collections: Collections, new: Hashed, writes: int) -> None:
    collection = made(collections, 20)
    expected = texts_of(20)
    here, count = threading.current_thread(), 0

    def write(texts: Sequence[str]) -> None:
        """Writes documents while each batch is embedded."""
        nonlocal count
        if threading.current_thread() is not here or count > 500:
            return  # the last few are embedded within the transaction
        documents = [{"id": f"w{count + number}", "text": f"written {count + number}"} for number in range(writes)]
        count += writes
        before, new.before = new.before, lambda texts: None
        collection.add(documents)
        new.before = before
        expected.update({document["id"]: document["text"] for document in documents})

    new.before = write
    collection.reembed("new")
    assert count > 0
    new.before = lambda texts: None
    assert_embedded(collection, new, expected)


def test_an_interrupted_run_is_resumed_where_it_stopped(
    collections: Collections, tmp_path: Path, old: Hashed, new: Hashed
) -> None:
    collection = made(collections, 100)

    def fail(texts: Sequence[str]) -> None:
        if len(new.embedded) >= 40:
            raise UpstreamFailed("the model went away")

    new.before = fail
    with pytest.raises(UpstreamFailed, match="the model went away"):
        collection.reembed("new")
    reached = len(new.embedded)
    assert 40 <= reached < 100
    assert collection.describe()["reembedding"] == {"embedder": "new", "done": reached, "total": 100}
    assert collection.describe()["embedder"] == "old"
    collections.close()
    new.before = lambda texts: None
    again = Collections(tmp_path, Retrieval(), HashedModels(old, new))
    reports: list[tuple[int, int]] = []
    again.open("t", "c").reembed("new", lambda done, total: reports.append((done, total)))
    assert len(new.embedded) == 100
    assert reports[0] == (reached, 100)
    assert_embedded(again.open("t", "c"), new, texts_of(100))
    again.close()


def test_the_progress_callback_can_end_it(collections: Collections, new: Hashed) -> None:
    collection = made(collections, 100)

    def stop(done: int, total: int) -> None:
        if done >= 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collection.reembed("new", stop)
    assert collection.describe()["embedder"] == "old"
    collection.reembed("new")
    assert len(new.embedded) == 100
    assert_embedded(collection, new, texts_of(100))


def test_another_embedder_discards_an_unfinished_run(collections: Collections, new: Hashed) -> None:
    collection = made(collections, 100)

    def fail(texts: Sequence[str]) -> None:
        if len(new.embedded) >= 40:
            raise UpstreamFailed("away")

    new.before = fail
    with pytest.raises(UpstreamFailed):
        collection.reembed("new")
    collection.reembed("third")
    assert_embedded(collection, Hashed("third", 6), texts_of(100))
    new.before = lambda texts: None
    new.embedded.clear()
    collection.reembed("new")
    assert len(new.embedded) == 100
    assert_embedded(collection, new, texts_of(100))


def test_two_runs_at_once_are_a_conflict(collections: Collections, tmp_path: Path, old: Hashed, new: Hashed) -> None:
    collection = made(collections)
    gate = new.before = Gate()
    join = in_thread(lambda: collection.reembed("new"))
    assert gate.reached.wait(30)
    other = Collections(tmp_path, Retrieval(), HashedModels(old, new, Hashed("third", 6)))  # as another process has it
    for opened in (collection, other.open("t", "c")):
        with pytest.raises(Conflict, match="being made already") as caught:
            opened.reembed("third")
        assert caught.value.code == "reembedding_runs"
    gate.opened.set()
    join()
    assert_embedded(collection, new, texts_of(50))
    assert_embedded(other.open("t", "c"), new, texts_of(50))  # it noticed
    other.close()


def test_a_write_that_was_embedded_before_the_change_is_embedded_again(
    collections: Collections, old: Hashed, new: Hashed
) -> None:
    collection = made(collections)
    gate = old.before = Gate()
    join = in_thread(lambda: collection.add([{"id": "late", "text": "embedded by the old one"}]))
    assert gate.reached.wait(30)
    collection.reembed("new")
    gate.opened.set()
    join()
    assert_embedded(collection, new, texts_of(50) | {"late": "embedded by the old one"})


def test_vectors_that_came_with_documents_are_replaced_and_blank_texts_have_none(
    collections: Collections, new: Hashed
) -> None:
    collection = made(collections, 0, "none")
    collection.add([{"id": "a", "text": "with its own", "vector": [1, 2]}, {"id": "b", "text": " ", "vector": [3, 4]}])
    collection.add([{"id": "c", "text": "without"}])
    collection.reembed("new")
    assert np.array_equal(collection.get("a", vector=True).vector, new.vector("with its own"))
    assert collection.get("b", vector=True).vector is None
    assert np.array_equal(collection.get("c", vector=True).vector, new.vector("without"))
    answer = collection.search(Search(query="without", mode=Mode.DENSE, top_k=5, exact=True))
    assert [result.id for result in answer.results] == ["c", "a"]
    collection.delete(["b"])
    assert_embedded(collection, new, {"a": "with its own", "c": "without"})


def test_the_same_embedder_may_make_them_again(collections: Collections, old: Hashed) -> None:
    collection = made(collections)
    old.embedded.clear()
    collection.reembed("old")
    assert len(old.embedded) == 50
    assert_embedded(collection, old, texts_of(50))


def test_an_empty_collection_changes_its_embedder(collections: Collections, new: Hashed) -> None:
    collection = made(collections, 0)
    reports: list[tuple[int, int]] = []
    collection.reembed("new", lambda done, total: reports.append((done, total)))
    assert reports[-1] == (0, 0)
    collection.add([{"id": "d0", "text": "text 0"}])
    assert_embedded(collection, new, texts_of(1))


def test_a_dimension_that_is_known_with_the_first_vector(collections: Collections, new: Hashed) -> None:
    new.dimension = None
    collection = made(collections)
    collection.reembed("new")
    new.dimension = 8
    assert_embedded(collection, new, texts_of(50))


def test_many_searches_meanwhile_are_all_answered(collections: Collections, old: Hashed, new: Hashed) -> None:
    collection = made(collections, 200)
    done = threading.Event()

    def search() -> int:
        count = 0
        while not done.is_set() or count < 20:
            number = count % 200
            answer = collection.search(Search(query=f"text {number}", mode=Mode.DENSE, top_k=1, exact=True))
            assert answer.results[0].id == f"d{number}"
            assert answer.results[0].scores["dense"] == pytest.approx(1, abs=1e-5)
            count += 1
        return count

    joins = [in_thread(search) for _ in range(2)]
    try:
        for name in ("new", "old", "new"):
            collection.reembed(name)
    finally:
        done.set()
    assert sum(join() for join in joins) >= 40
    assert_embedded(collection, new, texts_of(200))


_KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from middleware.retrieval.test_reembed import Hashed, HashedModels
from sage.middleware.retrieval.collections import Collections
from sage.middleware.retrieval.vector_store import VectorStore
from sage.middleware.settings.retrieval import Retrieval

new = Hashed("new", 8)
def die(texts):
    if len(new.embedded) >= 60:
        os.kill(os.getpid(), signal.SIGKILL)
new.before = die
Collections(Path(sys.argv[1]), Retrieval(), HashedModels(Hashed("old", 4), new)).open("t", "c").reembed("new")
"""


@pytest.mark.slow
def test_a_killed_run_is_resumed(collections: Collections, tmp_path: Path, old: Hashed, new: Hashed) -> None:
    made(collections, 200)
    collections.close()
    tests = ROOT / "tests"
    paths = [str(tests), str(tests.parent)]
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), *paths], check=False, timeout=60)
    assert ended.returncode == -9
    again = Collections(tmp_path, Retrieval(), HashedModels(old, new))
    collection = again.open("t", "c")
    answer = collection.search(Search(query="text 7", mode=Mode.DENSE, top_k=1, exact=True))
    assert answer.results[0].scores["dense"] == pytest.approx(1, abs=1e-5)
    reached = collection.describe()["reembedding"]["done"]
    assert 60 <= reached < 200
    collection.reembed("new")
    assert len(new.embedded) == 200 - reached
    assert_embedded(collection, new, texts_of(200))
    again.close()


def test_a_store_in_memory_too(old: Hashed, new: Hashed) -> None:
    with VectorStore(embedder="old", models=HashedModels(old, new)) as store:
        store.add_documents([f"text {number}" for number in range(30)], [f"d{number}" for number in range(30)])
        gate = new.before = Gate()
        join = in_thread(lambda: store.collection.reembed("new"))
        assert gate.reached.wait(30)
        with pytest.raises(Conflict, match="being made already"):
            store.collection.reembed("new")
        store.add_documents(["text 30"], ["d30"])
        gate.opened.set()
        join()
        assert_embedded(store.collection, new, texts_of(31))


class ModelsOfAnEarlierRelease:
    """Then ``local`` was another embedder."""

    def embedder(self, name: str) -> Embedder | None:
        return builtin_embedder(EARLIER_MINILM.full_name if name == "local" else name)

    def reranker(self, name: str) -> Reranker:
        raise NotImplementedError


def test_a_collection_of_an_earlier_release_keeps_its_embedder_until_it_is_moved(tmp_path: Path) -> None:
    documents = [{"id": id, "text": text} for id, text in TEXTS.items()]
    query = Search(query="a sleeping pet", mode=Mode.DENSE, top_k=1)
    with closing(Collections(tmp_path, Retrieval(), ModelsOfAnEarlierRelease())) as earlier:
        collection = earlier.create("acme", "old", {"embedder": "local"})
        collection.add(documents)
        expected = collection.search(query).results[0]
        assert (expected.id, collection.describe()["embedder"]) == ("cat", EARLIER_MINILM.full_name)
    with closing(Collections(tmp_path, Retrieval(), ModelsByName(None, None))) as today:
        old, new = today.open("acme", "old"), today.create("acme", "new", {"embedder": "local"})
        new.add(documents)
        assert old.search(query).results[0].score == pytest.approx(expected.score, abs=1e-6)
        assert new.describe()["embedder"] == MINILM.full_name
        old.add([{"id": "bread", "text": "Bread is made of flour."}])
        vector = old.get("bread", vector=True).vector
        made = ModelsOfAnEarlierRelease().embedder("local").embed(["Bread is made of flour."])  # type: ignore[union-attr]
        assert np.allclose(vector, made[0], atol=1e-5)
        assert old.describe()["embedder"] == EARLIER_MINILM.full_name
        old.reembed("local")
        assert (old.describe()["embedder"], old.options.embedder) == (MINILM.full_name, "local")
        assert old.search(query).results[0].score == pytest.approx(new.search(query).results[0].score, abs=1e-6)
