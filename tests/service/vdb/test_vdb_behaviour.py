"""What a vector service does, whichever engine is behind it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage.errors import InvalidRequest, NotFound, Unavailable, Unsupported
from sage.service import VDBService

Make = Callable[..., VDBService]
CHROMA = pytest.param("chroma", marks=pytest.mark.slow)
SHARDS = pytest.param("shards", marks=pytest.mark.slow)


@pytest.fixture(params=["memory", "files", SHARDS, CHROMA])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """``make(**options)``: a service of that kind; all end with the test."""
    with ExitStack() as stack:

        def start(**options: Any) -> VDBService:
            if request.param in ("files", "shards"):
                options.setdefault("persist_directory", str(tmp_path / "vectors"))
            if request.param == "shards":
                options.setdefault("shards", 3)
            backend = "chroma" if request.param == "chroma" else "retrieval"
            return stack.enter_context(VDBService(backend, **options))

        yield start


def ids(results: list[dict[str, Any]]) -> list[str]:
    return [result["id"] for result in results]


def angle(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def test_items_are_found_by_vector_best_first_and_come_back_whole(make: Make) -> None:
    service = make(dimension=2)
    given = [
        {
            "id": "far",
            "vector": angle(80),
            "metadata": {"n": 1, "x": 1.5, "ok": True, "tags": ["a", "b"]},
            "text": "hi",
        },
        {"id": "near", "vector": angle(10)},
        {"id": "middle", "vector": angle(40), "metadata": {}},
    ]
    assert service.add(given) == ["far", "near", "middle"]
    results = service.search(angle(0), n_results=3)
    assert ids(results) == ["near", "middle", "far"]
    assert [result["score"] for result in results] == pytest.approx([math.cos(math.radians(d)) for d in (10, 40, 80)])
    assert results[2]["metadata"] == {"n": 1, "x": 1.5, "ok": True, "tags": ["a", "b"]}
    assert results[2]["text"] == "hi"
    assert results[0]["text"] == ""
    assert results[0]["metadata"] == {}
    assert results[0]["scores"]["dense"] == results[0]["score"]
    assert ids(service.search(angle(0), n_results=2)) == ["near", "middle"]
    assert ids(service.search(angle(0), 2, options={"offset": 1})) == ["middle", "far"]
    assert ids(service.search(angle(0), 100, options={"exact": True})) == ["near", "middle", "far"]
    got = service.get("far", vector=True)
    assert got["vector"] == pytest.approx(angle(80))
    assert got["text"] == "hi"
    assert got["metadata"]["x"] == 1.5
    assert "vector" not in service.get("far")


@pytest.mark.parametrize(
    ("metric", "scores"),
    [
        ("cosine", [1.0, 0.6, -1.0]),
        ("ip", [2.0, 3.0, -2.0]),
        ("dot", [2.0, 3.0, -2.0]),
        ("l2", [-1.0, -math.sqrt(20), -3.0]),
    ],
)
def test_scores_are_the_metrics_and_higher_is_nearer(make: Make, metric: str, scores: list[float]) -> None:
    service = make(distance_metric=metric)
    service.add(
        [
            {"id": "same", "vector": [2.0, 0.0]},
            {"id": "long", "vector": [3.0, 4.0]},
            {"id": "opposite", "vector": [-2.0, 0.0]},
        ]
    )
    wanted = dict(zip(["same", "long", "opposite"], scores, strict=True))
    for exact in (False, True):
        results = service.search([1.0, 0.0], options={"exact": exact})
        assert {result["id"]: result["score"] for result in results} == pytest.approx(wanted, abs=1e-6)
        assert ids(results) == sorted(wanted, key=lambda id: -wanted[id])


def test_an_add_replaces_items_of_the_same_id_as_a_whole(make: Make) -> None:
    service = make()
    service.add([{"id": "a", "vector": [1, 0], "metadata": {"old": 1, "both": "x", "list": ["p"]}, "text": "before"}])
    service.add([{"id": "a", "vector": [0, 1], "metadata": {"both": "y"}}])
    assert service.get("a", vector=True) == {"id": "a", "metadata": {"both": "y"}, "text": "", "vector": [0.0, 1.0]}
    assert service.count() == 1
    assert service.count({"old": 1}) == 0
    assert service.count({"list": "p"}) == 0
    service.add([{"id": "a", "vector": [0, 1]}])
    assert service.get("a")["metadata"] == {}
    assert service.count({"both": "y"}) == 0


def test_an_update_changes_what_is_given_alone(make: Make) -> None:
    service = make()
    service.add(
        [{"id": "a", "vector": [1, 0], "metadata": {"n": 1, "m": 2}, "text": "text"}, {"id": "b", "vector": [1, 1]}]
    )
    service.update("a", metadata={"n": 3})
    assert service.get("a", vector=True) == {"id": "a", "metadata": {"n": 3}, "text": "text", "vector": [1.0, 0.0]}
    service.update("a", vector=[0, 1])
    service.update("a", text="more")
    assert service.get("a", vector=True) == {"id": "a", "metadata": {"n": 3}, "text": "more", "vector": [0.0, 1.0]}
    service.update("a", metadata={})
    assert service.get("a")["metadata"] == {}
    assert service.count({"n": 3}) == 0
    with pytest.raises(NotFound, match="no item 'zz'"):
        service.update("zz", metadata={"n": 1})
    with pytest.raises(InvalidRequest, match="nothing to update"):
        service.update("a")
    with pytest.raises(InvalidRequest, match=r"3 dimensions.*2"):
        service.update("a", vector=[1, 2, 3])
    assert service.count() == 2


def test_delete_by_id_and_by_filter_says_how_many_there_were(make: Make) -> None:
    service = make()
    service.add([{"id": f"{n}", "vector": [1, n], "metadata": {"n": n}} for n in range(10)])
    assert service.delete(["3", "3", "none"]) == 1
    assert service.delete(where={"n": {"$gte": 8}}) == 2
    assert service.delete(where={"n": 100}) == 0
    assert service.delete([]) == 0
    assert service.count() == 7
    assert sorted(ids(service.search([1, 0], n_results=50))) == ["0", "1", "2", "4", "5", "6", "7"]
    assert service.get("3") is None
    for wrong in ({}, {"ids": ["1"], "where": {"n": 1}}, {"where": {}}, {"ids": 1}):
        with pytest.raises(InvalidRequest):
            service.delete(**wrong)  # type: ignore[arg-type]
    assert service.count() == 7


def test_ids_that_no_item_can_have_are_refused(make: Make) -> None:
    service = make()
    service.add([{"id": "ä/ ?", "vector": [1, 0]}])
    assert service.get("ä/ ?")["id"] == "ä/ ?"
    calls: list[Callable[[Any], Any]] = [
        service.get,
        lambda id: service.delete([id]),
        lambda id: service.update(id, text="text"),
    ]
    for bad in ("", "\ud800", "\x00", None, 5, "x" * 513):
        for call in calls:
            with pytest.raises(InvalidRequest, match=r"id"):
                call(bad)
    assert service.count() == 1


def test_pages_hold_every_item_once_in_the_order_in_which_they_came(make: Make) -> None:
    service = make()
    names = [f"item {n}" for n in range(25)]
    service.add([{"id": name, "vector": [1, 0], "metadata": {"even": n % 2 == 0}} for n, name in enumerate(names)])
    listed: list[str] = []
    cursor, pages = None, 0
    while True:
        page = service.list_items(limit=10, cursor=cursor)
        listed += ids(page["items"])
        pages += 1
        if (cursor := page["cursor"]) is None:
            break
    assert listed == names
    assert pages == 3
    evens = service.list_items({"even": True}, limit=13, vectors=True)
    assert ids(evens["items"]) == names[::2]
    assert evens["cursor"] is None
    assert evens["items"][0]["vector"] == [1.0, 0.0]
    for wrong in ({"limit": 0}, {"limit": 1001}, {"cursor": "elsewhere"}):
        with pytest.raises(InvalidRequest):
            service.list_items(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_tenants_and_collections_never_meet(make: Make) -> None:
    service = make()
    places = [
        ("a", "c"),
        ("a.c", "c"),
        ("a/c", "c"),
        ("a", "c.c"),
        ("a_2Ec", "c"),
        ("A", "c"),
        ("ä", "中文"),
        ("..", "c"),
    ]
    for n, (tenant, name) in enumerate(places):
        service.add([{"id": "one", "vector": [1, n + 1], "metadata": {"n": n}}], collection=name, tenant=tenant)
    for n, (tenant, name) in enumerate(places):
        assert ids(service.search([1, 0], collection=name, tenant=tenant)) == ["one"]
        assert service.get("one", collection=name, tenant=tenant)["metadata"] == {"n": n}
    assert service.collections(tenant="a") == ["c", "c.c"]
    assert service.collections(tenant="ä") == ["中文"]
    assert service.collections(tenant="nobody") == []
    service.drop("c", tenant="a")
    assert service.collections(tenant="a") == ["c.c"]
    assert service.count(collection="c", tenant="a/c") == 1
    with pytest.raises(InvalidRequest, match="'b/c' cannot be a collection's name"):
        service.add([{"vector": [1, 0]}], collection="b/c", tenant="a")
    for tenant in ("", "x" * 81, 5):
        with pytest.raises(InvalidRequest, match="cannot be a tenant's name"):
            service.collections(tenant=tenant)  # type: ignore[arg-type]


def test_what_does_not_exist_is_not_found_and_says_what_there_is(make: Make) -> None:
    service = make(collection_name="main")
    service.add([{"vector": [1, 0]}], collection="other")
    calls: list[Callable[[], Any]] = [
        lambda: service.search([1, 0], collection="main"),
        lambda: service.get("x", collection="main"),
        lambda: service.count(collection="main"),
        lambda: service.count({"n": 1}, collection="main"),
        lambda: service.list_items(collection="main"),
        lambda: service.update("x", metadata={}),
        lambda: service.delete(["x"], collection="main"),
        lambda: service.clear(collection="main"),
        lambda: service.stats(collection="main"),
        lambda: service.drop("main"),
        lambda: service.purge(collection="main"),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="no collection 'main'; there are: other"):
            call()
    assert service.collections() == ["other"]
    service.drop("other")
    with pytest.raises(NotFound, match="there are none yet"):
        service.search([1, 0], collection="other")
    service.add([{"id": "new", "vector": [1, 0, 0]}], collection="other")
    assert ids(service.search([1, 0, 0], collection="other")) == ["new"]


def test_its_own_collection_is_empty_before_the_first_item_and_after_a_clear(make: Make) -> None:
    service = make(collection_name="main")
    for _ in range(2):
        assert service.search([1, 0]) == []
        assert service.get("x") is None
        assert service.find(["x"]) == []
        assert service.count() == service.count({"n": 1}) == 0
        assert service.list_items() == {"items": [], "cursor": None}
        assert service.delete("x") == service.delete(where={"n": 1}) == 0
        assert service.clear() == 0
        service.purge()
        service.add([{"id": "a", "vector": [1, 0]}, {"id": "b", "vector": [0, 1]}, {"id": "c", "vector": [1, 1]}])
        assert service.delete("c") == 1
        assert service.count() == 2
        assert service.clear() == 2


BAD_ITEMS: list[tuple[Any, str]] = [
    ({"vector": [1, 2, 3]}, r"items\[1\]: 'vector' has 3 dimensions, but .* 2"),
    ({"vector": [1, math.nan]}, r"items\[1\]: 'vector' holds a number that is not finite"),
    ({"vector": ["1", "2"]}, r"items\[1\]: 'vector' must be a list of numbers"),
    ({"vector": []}, r"items\[1\]: 'vector' must be"),
    ({"vector": [1, 2], "id": ""}, r"items\[1\]: 'id' must be text"),
    ({"vector": [1, 2], "id": "good"}, r"items\[1\]: the id 'good' stands twice"),
    ({"vector": [1, 2], "metadata": [1]}, r"items\[1\]: 'metadata' must be an object"),
    ({"vector": [1, 2], "metadata": {"a": object()}}, r"items\[1\]: 'metadata' is not JSON"),
    ({"vector": [1, 2], "text": 5}, r"items\[1\]: 'text' must be text"),
    ({"vector": [1, 2], "vektor": 1}, r"items\[1\]: unknown field 'vektor'"),
    ({"metadata": {"a": 1}}, r"items\[1\] has neither 'vector' nor 'text'"),
    ("text", r"items\[1\] must be an object"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ITEMS)
def test_one_bad_item_leaves_nothing_of_its_request(make: Make, bad: Any, message: str) -> None:
    service = make()
    with pytest.raises(InvalidRequest, match=message):
        service.add([{"id": "good", "vector": [1, 2]}, bad])
    assert service.collections() == []
    service.add([{"id": "first", "vector": [1, 2]}])
    with pytest.raises(InvalidRequest, match=message):
        service.add([{"id": "good", "vector": [1, 2]}, bad])
    assert ids(service.list_items()["items"]) == ["first"]


def test_a_wrong_dimension_names_both(make: Make) -> None:
    service = make(dimension=3)
    with pytest.raises(InvalidRequest, match=r"2 dimensions.*3"):
        service.add([{"vector": [1, 2]}])
    service.add([{"vector": [1, 2, 3]}])
    with pytest.raises(InvalidRequest, match=r"4 dimensions.*3"):
        service.search([1, 2, 3, 4])
    assert service.add([]) == []


def test_searches_that_say_nonsense_are_refused(make: Make) -> None:
    service = make()
    service.add([{"vector": [1, 2], "text": "words"}])
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "give 'vector', 'text' or both"),
        ({"vector": [1, 2], "n_results": 0}, "'n_results' must be"),
        ({"vector": [1, 2], "n_results": True}, "'n_results' must be"),
        ({"vector": [1, 2], "mode": "fast"}, "'fast' is no mode; there are: hybrid, dense, bm25"),
        ({"vector": [1, 2], "options": {"ofset": 1}}, "no 'ofset'; did you mean 'offset'"),
        ({"vector": [1, 2], "options": {"offset": -1}}, "'offset' must be a whole number"),
        ({"vector": [1, 2], "mode": "bm25"}, "give 'text'"),
        ({"text": " "}, "'text' must be"),
        ({"vector": [1, 2], "where": {"n": {"$near": 1}}}, r"'where\.n\.\$near' is no operator; there are \$eq"),
        ({"vector": [1, 2], "where": {"$xor": []}}, r"there are \$and, \$or"),
        ({"vector": [1, 2], "where": []}, "'where' must be an object"),
    ]
    for given, message in wrong:
        with pytest.raises(InvalidRequest, match=message):
            service.search(**given)


def test_texts_have_vectors_of_the_embedder(make: Make) -> None:
    service = make(embedder=_lengths)
    service.add(
        [
            {"id": "short", "text": "ab"},
            {"id": "given", "text": "ab", "vector": [0, 5]},
            {"id": "long", "text": "x" * 9},
        ]
    )
    assert service.get("short", vector=True)["vector"] == [2.0, 1.0]
    assert service.get("given", vector=True)["vector"] == [0.0, 5.0]
    results = service.search(text="q" * 9, mode="dense", n_results=2)
    assert ids(results) == ["long", "short"]
    assert results[0]["score"] == pytest.approx(1.0)
    service.update("short", text="y" * 9)
    assert service.get("short", vector=True)["vector"] == [9.0, 1.0]
    service.update("given", metadata={"n": 1})
    assert service.get("given", vector=True)["vector"] == [0.0, 5.0]
    with pytest.raises(InvalidRequest, match=r"3 dimensions.*2"):
        service.add([{"text": "fine"}, {"vector": [1, 2, 3]}], collection="fresh")
    assert service.collections() == ["default"]


def _lengths(texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([[len(text), 1] for text in texts], np.float32)


def test_always_k_results_when_k_match(make: Make) -> None:
    service = make()
    random = np.random.default_rng(5)
    vectors = random.normal(size=(400, 8))
    service.add([{"id": f"{n}", "vector": v, "metadata": {"rare": n % 40 == 0}} for n, v in enumerate(vectors)])
    for query in random.normal(size=(5, 8)):
        assert len(service.search(query, n_results=10, where={"rare": True})) == 10
        assert len(service.search(query, n_results=50, where={"rare": True})) == 10
        nearest = ids(service.search(query, n_results=400))
        assert len(set(nearest)) == 400


@pytest.mark.slow
def test_sixteen_writers_lose_nothing(make: Make) -> None:
    service = make()

    def write(writer: int) -> None:
        start.wait()
        for n in range(5):
            service.add([{"id": f"{writer}.{n}.{m}", "vector": [1, n], "metadata": {"w": writer}} for m in range(2)])
            service.add([{"id": "shared", "vector": [1, writer]}])

    start = threading.Barrier(16)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(write, range(16)))
    assert service.count() == 161
    assert all(service.count({"w": writer}) == 10 for writer in range(16))
    assert len(service.search([1, 0], n_results=500)) == 161


def test_updates_of_one_item_by_many_lose_none_of_their_fields(make: Make) -> None:
    service = make()
    service.add([{"id": "a", "vector": [1, 0], "text": "start", "metadata": {"n": 0}}])
    changes: list[dict[str, Any]] = [{"vector": [0, 1]}, {"metadata": {"n": 1}}, {"text": "end"}]

    def change(number: int) -> None:
        start.wait()
        service.update("a", **changes[number % 3])

    start = threading.Barrier(9)
    with ThreadPoolExecutor(9) as threads:
        list(threads.map(change, range(9)))
    assert service.get("a", vector=True) == {"id": "a", "vector": [0.0, 1.0], "metadata": {"n": 1}, "text": "end"}


def test_two_services_in_one_process_do_not_meet(make: Make, tmp_path: Path) -> None:
    other = {"persist_directory": str(tmp_path / "other")}
    one = make()
    two = make(**(other if one.health()["durable"] else {}))
    one.add([{"id": "mine", "vector": [1, 0]}])
    assert two.collections() == []
    two.add([{"id": "yours", "vector": [1, 0, 0]}])
    one.cleanup()
    assert ids(two.search([1, 0, 0])) == ["yours"]


def test_a_service_that_does_not_run_says_so(make: Make) -> None:
    service = make()
    service.cleanup()
    with pytest.raises(Unavailable, match="not running"):
        service.search([1, 0])
    with pytest.raises(Unavailable, match="not running"):
        service.health()


@pytest.mark.slow
def test_chroma_says_what_only_our_own_engine_does(tmp_path: Path) -> None:
    pytest.importorskip("chromadb")
    with VDBService("chroma") as service:
        service.add([{"id": "a", "vector": [1, 0], "text": "words"}])
        for given in (
            {"text": "words", "mode": "bm25"},
            {"text": "words", "mode": "hybrid"},
            {"text": "words"},
            {"text": "words", "vector": [1, 0]},
            {"vector": [1, 0], "options": {"rerank": "model"}},
            {"vector": [1, 0], "options": {"alpha": 0.2}},
            {"vector": [1, 0], "where": {"a": {"$exists": True}}},
            {"vector": [1, 0], "where": {"a": {"$not": {"$gt": 1}}}},
            {"vector": [1, 0], "where": {"a": {"$gt": "text"}}},
            {"vector": [1, 0], "where": {"a": None}},
            {"vector": [1, 0], "where": {"a": {"$in": list(range(5000))}}},
        ):
            with pytest.raises(Unsupported, match="Chroma"):
                service.search(**given)  # type: ignore[arg-type]
        for metadata in (
            {"a": None},
            {"a": {"b": 1}},
            {"a": []},
            {"a": [1, "x"]},
            {"a": 2**63},
            {"chroma:document": "x"},
            {"#x": 1},
        ):
            with pytest.raises(Unsupported, match=r"items\[0\].*Chroma"):
                service.add([{"id": "b", "vector": [1, 0], "metadata": metadata}])
        assert service.count({"#document": "words"}) == service.count({"chroma:document": "words"}) == 0
        with pytest.raises(Unsupported, match=r"items\[0\] has no 'vector'"):
            service.add([{"text": "words"}])
        with pytest.raises(Unsupported, match="no byte"):
            service.purge()
        assert service.count() == 1
