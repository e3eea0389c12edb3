"""A collection over shards: the same answers as one collection, and clear words when a shard fails."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import Conflict, InvalidRequest, NotFound, SageError, Unavailable, Unsupported
from sage.middleware.retrieval.embedding.functions import FunctionEmbedder
from sage.middleware.retrieval.embedding.protocols import EmbedFunction
from sage.middleware.retrieval.text.query_syntax import Syntax
from sage.middleware.retrieval.types.search import Fusion, Mode, Search, SearchAnswer
from sage.middleware.retrieval.vector_store import VectorStore
from sage.middleware.settings.retrieval import RetrievalLimits
from sage.service.vdb.sharded.collection import PartlyWritten, ShardedCollection
from sage.service.vdb.sharded.shard import LocalShard

DIMENSION = 4
WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath"]


@contextmanager
def sharded(count: int, directory: Path | None = None, **options: Any) -> Iterator[ShardedCollection]:
    embedder = options.pop("embedder", None)
    with ExitStack() as stack:
        shards = [LocalShard(None if directory is None else directory / str(n), **options) for n in range(count)]
        for shard in shards:
            stack.callback(shard.close)
        collection = ShardedCollection("c", shards, embedder=embedder)
        stack.callback(collection.close)
        yield collection


def documents(generator: random.Random, count: int) -> list[dict[str, Any]]:
    """Few words and few vectors, so that many scores are equal; some documents without either."""
    some = []
    for id in generator.sample(range(200), count):
        document: dict[str, Any] = {
            "id": f"d{id}",
            "text": " ".join(generator.choices(WORDS, k=generator.choice([0, 1, 1, 2, 3, 9]))),
            "metadata": {"n": generator.randrange(4), "tag": generator.choice(["a", "b"])},
        }
        if generator.random() < 0.8:
            document["vector"] = [generator.choice([-1.0, 0.0, 0.5, 2.0]) for _ in range(DIMENSION)]
        some.append(document)
    return some


def check_same(ours: SearchAnswer, expected: SearchAnswer) -> None:
    assert [result.id for result in ours.results] == [result.id for result in expected.results]
    assert [result.score for result in ours.results] == pytest.approx(
        [result.score for result in expected.results], abs=1e-9
    )
    assert ours.total == expected.total
    assert ours.warnings == expected.warnings
    for one, other in zip(ours.results, expected.results, strict=True):
        assert replace(one, score=0.0, scores=None, explanation=None) == replace(
            other, score=0.0, scores=None, explanation=None
        )
        assert one.scores == pytest.approx(other.scores, abs=1e-9)
        assert (one.explanation is None) == (other.explanation is None)
        if one.explanation is not None and other.explanation is not None:
            assert flat(one.explanation) == pytest.approx(flat(other.explanation), abs=1e-9)


def pages(collection: ShardedCollection, filter: dict[str, Any] | None) -> list[str]:
    documents_of_pages, cursor = collection.page(limit=37, filter=filter)
    while cursor is not None:
        more, cursor = collection.page(cursor, 37, filter)
        documents_of_pages += more
    return [document.id for document in documents_of_pages]


def flat(explanation: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flattened: dict[str, Any] = {}
    for key, value in explanation.items():
        if isinstance(value, dict):
            flattened |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            flattened[prefix + key] = value
        else:
            flattened[prefix + key] = hash(value) if isinstance(value, str) else value
    return flattened


vectors = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=DIMENSION, max_size=DIMENSION)
searches = st.builds(
    Search,
    query=st.one_of(
        st.lists(st.sampled_from([*WORDS, "nowhere"]), min_size=1, max_size=4).map(" ".join),
        st.sampled_from(['"amber birch"', "+cedar delta", "ember -fjord", "+nowhere"]),
    ),
    vector=st.one_of(st.none(), vectors.map(lambda numbers: np.array(numbers, np.float32))),
    syntax=st.sampled_from([Syntax.AUTO, Syntax.AUTO, Syntax.QUERY, Syntax.PLAIN]),
    mode=st.sampled_from([Mode.HYBRID, Mode.HYBRID, Mode.BM25]),
    top_k=st.integers(1, 120),
    offset=st.sampled_from([0, 0, 1, 5, 60, 130]),
    filter=st.sampled_from([None, None, {"n": {"$gte": 2}}, {"$or": [{"tag": "a"}, {"n": 3}]}, {"n": 9}]),
    fusion=st.sampled_from(list(Fusion)),
    alpha=st.sampled_from([None, None, 0.0, 0.3, 1.0]),
    exact=st.just(True),
    explain=st.booleans(),
    highlight=st.booleans(),
)


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 5),
    metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    variant=st.sampled_from(["lucene", "plus", "l"]),
    queries=st.lists(searches, min_size=1, max_size=4),
    near=vectors,
)
def test_the_answers_are_those_of_one_collection(
    seed: int, count: int, metric: str, variant: str, queries: Sequence[Search], near: list[float]
) -> None:
    generator = random.Random(seed)
    options = {"metric": metric, "keywords": {"variant": variant}, "dimension": DIMENSION}
    with sharded(count, **options) as ours, VectorStore(embedder=None, **options) as store:
        one = store.collection
        for _ in range(generator.randrange(1, 6)):
            some = documents(generator, generator.choice([1, 3, 20, 100]))
            wrote, expected = ours.add(some), one.add(some)
            assert wrote == expected
            if generator.random() < 0.5:
                ids = [document["id"] for document in generator.sample(some, len(some) // 3)]
                assert ours.delete(ids) == one.delete(ids)
            if generator.random() < 0.2:
                assert ours.delete(filter={"n": 1}) == one.delete(filter={"n": 1})
        dense = Search(vector=np.array(near, np.float32), mode=Mode.DENSE, top_k=30, exact=True)
        for search in [*queries, dense, replace(dense, offset=7, filter={"tag": "b"}, explain=True)]:
            check_same(ours.search(search), one.search(search))
        assert pages(ours, {"n": 2}) == [document.id for document in one.page(limit=1000, filter={"n": 2})[0]]
        assert pages(ours, None) == [document.id for document in one.page(limit=1000)[0]]
        assert ours.count() == one.count()
        assert ours.count({"n": {"$lt": 2}}) == one.count({"n": {"$lt": 2}})


@pytest.mark.slow
def test_pages_of_many_documents_are_those_of_one_collection(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    words = random.Random(3)
    texts = [" ".join(words.choices(WORDS, k=words.randrange(1, 30))) for _ in range(3000)]
    numbers = generator.normal(size=(3000, 16)).astype(np.float32)
    with sharded(3, tmp_path) as ours, VectorStore(tmp_path / "one", embedder=None) as store:
        for start in range(0, 3000, 500):
            some = [{"id": f"d{n}", "text": texts[n], "vector": numbers[n].tolist()} for n in range(start, start + 500)]
            assert ours.add(some) == store.collection.add(some)
            if start == 1000:
                ours.delete([f"d{n}" for n in range(0, 1500, 7)])
                store.delete([f"d{n}" for n in range(0, 1500, 7)])
        store.optimize()
        for shard in ours._scatter._shards[:2]:
            shard.optimize()  # type: ignore[attr-defined]
        ids: list[str] = []
        for fusion in Fusion:
            search = Search("amber grove heath", vector=numbers[5], fusion=fusion, top_k=97, exact=True)
            for offset in range(0, 970, 97):
                page = ours.search(replace(search, offset=offset))
                check_same(page, store.collection.search(replace(search, offset=offset)))
                ids += [result.id for result in page.results] if fusion is Fusion.RRF else []
        assert len(ids) == len(set(ids)) == 970


def test_what_comes_without_a_vector_gets_one_once(tmp_path: Path) -> None:
    embedded: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        embedded.extend(texts)
        return np.array([[text.count(word) for word in WORDS] for text in texts], np.float32)

    function: EmbedFunction = embed
    with (
        sharded(3, embedder=FunctionEmbedder(function, "counting")) as ours,
        VectorStore(embedder=function, dimension=8) as store,
    ):
        some = [{"id": str(n), "text": f"{WORDS[n % 8]} {WORDS[n % 3]}"} for n in range(12)] + [
            {"id": "none", "text": " "}
        ]
        ours.add(some)
        assert embedded == [document["text"] for document in some[:-1]]
        store.collection.add(some)
        for search in (
            Search("amber cedar", exact=True),
            Search("birch", mode=Mode.DENSE, exact=True),
            Search("heath", mode=Mode.BM25),
        ):
            check_same(ours.search(search), store.collection.search(search))
        assert ours.describe()["embedder"] == "function/counting"


def test_a_dense_search_before_the_first_vector_finds_nothing() -> None:
    def embed(texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 3), np.float32)

    with sharded(2, embedder=FunctionEmbedder(embed)) as ours, VectorStore(embedder=embed) as store:
        for search in (
            Search("amber", mode=Mode.DENSE),
            Search("amber"),
            Search("amber", mode=Mode.DENSE, explain=True),
        ):
            assert ours.search(search).results == store.collection.search(search).results == []


def test_documents_are_in_the_shard_of_their_id_and_come_back(tmp_path: Path) -> None:
    with sharded(4, tmp_path) as ours:
        ids = ours.add([{"text": f"amber {n}", "metadata": {"n": n}, "vector": [n, 1, 0]} for n in range(40)]).ids
        assert len(set(ids)) == 40
        shards = ours.describe()["shard_documents"]
        assert sum(shards) == 40
        assert min(shards) > 0
        document = ours.get(ids[7], vector=True)
        assert (document.text, document.metadata) == ("amber 7", {"n": 7})
        assert document.vector is not None
        assert document.vector.tolist() == [7, 1, 0]
        with pytest.raises(NotFound, match="has no document 'elsewhere'"):
            ours.get("elsewhere")
        before = ours.search(Search("amber", top_k=40)).results
    with sharded(4, tmp_path) as again:
        assert again.search(Search("amber", top_k=40)).results == before
        assert again.describe()["dimension"] == 3
        again.add([{"id": "last", "text": "amber 1"}])
        assert again.search(Search("amber", top_k=41)).results[-1].id == "last"  # behind its equals: it came last


def test_two_collections_on_the_same_shards_take_turns() -> None:
    with ExitStack() as stack:
        shards = [stack.enter_context(closing_shard()) for _ in range(3)]
        first, second = (ShardedCollection("c", shards) for _ in range(2))
        stack.callback(first.close)
        stack.callback(second.close)
        for n in range(30):
            written = (first if n % 2 else second).add([{"id": f"{n}-{m}", "text": "amber"} for m in range(3)])
            assert written.inserted == 3
        second.add([{"id": "5-1", "text": "amber", "vector": [1, 2]}])
        with pytest.raises(InvalidRequest, match="has 3 dimensions, but the vectors of this collection have 2"):
            first.add([{"text": "birch", "vector": [1, 2, 3]}])
        answer = first.search(Search("amber", top_k=100))
        assert answer.total == 90
        assert answer == second.search(Search("amber", top_k=100))
        for index in range(3):  # of one shard, in the order of arrival
            ours = [result.id for result in answer.results if first.shard_of(result.id) == index]
            expected = [f"{n}-{m}" for n in range(30) for m in range(3) if (n, m) != (5, 1)] + ["5-1"]
            assert ours == [id for id in expected if first.shard_of(id) == index]


def test_other_shards_than_those_it_was_made_with_are_refused(tmp_path: Path) -> None:
    with sharded(3, tmp_path) as ours:
        ours.add([{"text": "amber"}])
    with (
        pytest.raises(Conflict, match="shard 0 was made as one of 3 shards, not of 2; open it with 3"),
        sharded(2, tmp_path),
    ):
        pass
    with sharded(3, tmp_path / "other"):
        pass
    (tmp_path / "1").rename(tmp_path / "1 of c")
    (tmp_path / "other" / "1").rename(tmp_path / "1")
    with pytest.raises(Conflict, match="shard 1 belongs to another collection"), sharded(3, tmp_path):
        pass
    (tmp_path / "1").rename(tmp_path / "other" / "1")
    (tmp_path / "2").rename(tmp_path / "1")
    (tmp_path / "1 of c").rename(tmp_path / "2")
    with pytest.raises(Conflict, match="shard 1 was made as shard 2; bring them in their order"), sharded(3, tmp_path):
        pass
    embedder = FunctionEmbedder(lambda texts: np.ones((len(texts), 2), np.float32), "ones")
    with (
        pytest.raises(Conflict, match="shard 0 has vectors of the embedder None; open it with that one"),
        sharded(3, tmp_path / "other", embedder=embedder),
    ):
        pass


def test_shards_of_several_metrics_and_what_needs_all_words_are_refused() -> None:
    with ExitStack() as stack:
        shards = [stack.enter_context(closing_shard(metric=metric)) for metric in ("cosine", "dot")]
        with pytest.raises(Conflict, match=r"shard 1 was made with other options than shard 0 \(metric dot, cosine\)"):
            ShardedCollection("c", shards)
    for options in ({"variant": "okapi"}, {"engine": "rank-bm25"}):
        with (
            pytest.raises(Unsupported, match="a sharded collection takes lucene, plus or l"),
            sharded(2, keywords=options),
        ):
            pass
    with pytest.raises(InvalidRequest, match="needs 1 to 1024 shards, not 0"):
        ShardedCollection("c", [])


@contextmanager
def closing_shard(**options: Any) -> Iterator[LocalShard]:
    shard = LocalShard(**options)
    try:
        yield shard
    finally:
        shard.close()


def test_bad_input_is_refused_before_anything_is_written() -> None:
    with sharded(3) as ours:
        ours.add([{"id": "a", "text": "amber", "vector": [1, 2]}])
        for bad, reason in (
            ([{"text": "x"}, {"text": "y", "vector": [1, 2, 3]}], "has 3 dimensions, but the vectors of this"),
            ([{"id": "b", "text": "x"}, {"id": "b", "text": "y"}], "stands twice"),
            ([{"text": "x"}, {"text": 3}], "'text' must be text"),
            ([], "'documents' is empty"),
        ):
            with pytest.raises(InvalidRequest, match=reason):
                ours.add(bad)
        assert ours.count() == 1
        for search, reason in (
            (Search("x", vector=np.ones(3, np.float32)), "'vector' has 3 dimensions"),
            (Search("x", mode=Mode.DENSE), "must bring its 'vector'"),
            (Search("x", filter={"$what": 1}), r"\$what"),
            (Search("x", top_k=0), "'top_k' must be"),
            (Search("x", rerank="model"), "does not rerank"),
        ):
            with pytest.raises(InvalidRequest, match=reason):
                ours.search(search)
            with pytest.raises(InvalidRequest, match=reason):
                ours.search(search, partial=True)
        with pytest.raises(InvalidRequest, match="either 'ids' or 'filter'"):
            ours.delete()


def test_an_answer_of_too_many_bytes_is_refused() -> None:
    with ExitStack() as stack:
        shards = [stack.enter_context(closing_shard()) for _ in range(3)]
        ours = ShardedCollection("c", shards, limits=RetrievalLimits(max_answer=50_000))
        stack.callback(ours.close)
        ours.add([{"text": "amber " * 1000} for _ in range(10)])
        assert len(ours.search(Search("amber", top_k=5)).results) == 5
        with pytest.raises(InvalidRequest, match="more than the 50000 bytes"):
            ours.search(Search("amber", top_k=10))


class Failing(LocalShard):
    """Fails in the call named by ``fails_at``, or blocks there."""

    fails_at: str | None = None
    error: Exception = ConnectionError("the line is dead")
    ready: threading.Event | None = None

    def _maybe(self, name: str) -> None:
        if self.fails_at in (name, "all"):
            if self.ready is not None:
                self.ready.wait(30)
            raise self.error

    def put(self, *arguments: Any) -> Any:
        self._maybe("put")
        return super().put(*arguments)

    def delete(self, *arguments: Any, **named: Any) -> Any:
        self._maybe("delete")
        return super().delete(*arguments, **named)

    def statistics(self, *arguments: Any) -> Any:
        self._maybe("statistics")
        return super().statistics(*arguments)

    def candidates(self, *arguments: Any) -> Any:
        self._maybe("candidates")
        return super().candidates(*arguments)

    def fetch(self, *arguments: Any) -> Any:
        self._maybe("fetch")
        return super().fetch(*arguments)


@pytest.fixture
def failing() -> Iterator[tuple[ShardedCollection, Failing]]:
    with ExitStack() as stack:
        shards: list[LocalShard] = [stack.enter_context(closing_shard()) for _ in range(2)]
        broken = Failing()
        stack.callback(broken.close)
        collection = ShardedCollection("c", [shards[0], broken, shards[1]], timeout=20)
        stack.callback(collection.close)
        collection.add([{"id": f"d{n}", "text": f"amber {n}", "vector": [n, 1]} for n in range(30)])
        yield collection, broken


@pytest.mark.parametrize("step", ["statistics", "candidates", "fetch"])
def test_a_dead_shard_is_named_and_never_passed_over_unasked(
    failing: tuple[ShardedCollection, Failing], step: str
) -> None:
    ours, broken = failing
    broken.fails_at = step
    search = Search("amber", vector=np.array([1, 1], np.float32), top_k=30)
    reason = r"collection 'c': shard 1 of 3 failed \(ConnectionError: the line is dead\); an answer without it"
    with pytest.raises(Unavailable, match=reason) as refusal:
        ours.search(search)
    assert refusal.value.code == "shard_unavailable"
    assert isinstance(refusal.value.__cause__, ConnectionError)
    answer = ours.search(search, partial=True)
    expected = [f"d{n}" for n in range(30) if ours.shard_of(f"d{n}") != 1]
    assert sorted(result.id for result in answer.results) == sorted(expected)
    assert answer.warnings == ["of 2 of 3 shards only: shard 1 of 3 failed (ConnectionError: the line is dead)"]
    broken.fails_at = None
    assert ours.search(search).total == 30
    assert ours.search(search, partial=True).warnings == []


def test_when_every_shard_is_dead_a_partial_answer_is_none() -> None:
    with ExitStack() as stack:
        broken = Failing()
        stack.callback(broken.close)
        ours = ShardedCollection("c", [broken])
        stack.callback(ours.close)
        broken.fails_at = "all"
        with pytest.raises(Unavailable, match="shard 0 of 1 failed"):
            ours.search(Search("amber"), partial=True)


@pytest.mark.slow
def test_a_shard_that_hangs_is_given_up(failing: tuple[ShardedCollection, Failing]) -> None:
    ours, broken = failing
    ours._scatter._timeout = 0.2
    broken.fails_at, broken.ready = "candidates", threading.Event()
    try:
        with pytest.raises(Unavailable, match=r"shard 1 of 3 failed \(it did not answer within 0.2 s\)"):
            ours.search(Search("amber"))
        assert ours.search(Search("amber"), partial=True).warnings
    finally:
        broken.ready.set()


def test_what_was_partly_written_can_be_sent_again(failing: tuple[ShardedCollection, Failing]) -> None:
    ours, broken = failing
    broken.fails_at = "put"
    some = [{"text": f"birch {n}"} for n in range(20)]
    with pytest.raises(PartlyWritten, match=r"shard 1 of 3 failed .* the documents of 2 other shards are written") as e:
        ours.add(some)
    assert e.value.status == 503
    assert len(e.value.ids) == 20
    broken.fails_at = None
    again = [{**document, "id": id} for document, id in zip(some, e.value.ids, strict=True)]
    written = ours.add(again)
    assert written.ids == e.value.ids
    assert written.inserted + written.updated == 20
    assert 0 < written.inserted < 20
    assert ours.search(Search("birch", top_k=30)).total == 20
    broken.fails_at = "put"
    alone = next(f"x{n}" for n in range(100) if ours.shard_of(f"x{n}") == 1)
    with pytest.raises(Unavailable, match="shard 1 of 3 failed") as refused:
        ours.add([{"id": alone, "text": "cedar"}])
    assert not isinstance(refused.value, PartlyWritten)
    broken.fails_at = "delete"
    with pytest.raises(Unavailable, match="shard 1 of 3 failed"):
        ours.delete(filter={"$not": {"n": 1}})
    broken.fails_at = None
    assert ours.delete(filter={"$not": {"n": 1}}) > 0
    assert ours.count() == 0


def test_a_purge_reaches_every_shard(tmp_path: Path) -> None:
    with sharded(3, tmp_path) as ours:
        ours.add([{"id": f"d{n}", "text": f"quixotry{n}z"} for n in range(20)])
        ours.delete([f"d{n}" for n in range(10)])
        ours.purge()
        files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        there = [n for n in range(20) if any(f"quixotry{n}z".encode() in content for content in files)]
        assert there == list(range(10, 20))


@pytest.mark.slow
def test_several_threads_write_and_search() -> None:
    with sharded(3) as ours:
        faults: list[BaseException] = []

        def work(which: int) -> None:
            try:
                for n in range(15):
                    ours.add([{"id": f"{which}-{n}-{m}", "text": f"amber t{which}"} for m in range(4)])
                    answer = ours.search(Search(f"t{which}", mode=Mode.BM25, top_k=100))
                    assert answer.total == 4 * (n + 1) == len(answer.results)
                    ours.delete([f"{which}-{n}-3"])
                    ours.add([{"id": f"{which}-{n}-3", "text": f"amber t{which}"}])
            except BaseException as exc:
                faults.append(exc)

        threads = [threading.Thread(target=work, args=(which,)) for which in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        assert ours.count() == 240


def test_errors_of_shards_that_speak_of_the_request_stay_what_they_are(
    failing: tuple[ShardedCollection, Failing],
) -> None:
    ours, broken = failing
    broken.fails_at = "candidates"
    for error in (InvalidRequest("not so", param="query"), Conflict("taken"), NotFound("gone")):
        broken.error = error
        with pytest.raises(SageError) as raised:
            ours.search(Search("amber"), partial=True)
        assert raised.value is error
