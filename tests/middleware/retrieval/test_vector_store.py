"""`VectorStore`: the collection as a Python object, in memory and on disk."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from project import ROOT

from sage.errors import InvalidRequest, NotFound
from sage.middleware.retrieval import VectorStore

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


def by_colour(texts: list[str]) -> NDArray[np.float32]:
    """A vector of a text: which colours it names."""
    rows = [sum((np.array(v) for c, v in COLOURS.items() if c in text), np.full(3, 0.01)) for text in texts]
    return np.asarray(rows, np.float32)


@pytest.fixture(params=["memory", "disk"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., VectorStore]:
    def make(**options: object) -> VectorStore:
        path = tmp_path / "store" if request.param == "disk" else None
        return VectorStore(path, **options)  # type: ignore[arg-type]

    return make


def ids(results: Sequence[object]) -> list[str]:
    return [result.id for result in results]  # type: ignore[attr-defined]


def test_the_first_documents_example(make: Callable[..., VectorStore]) -> None:
    with make(embedder=None) as store:
        store.add_documents(["This is document 1", "This is document 2"])
        results = store.search("document", top_k=5)
        assert {result.text for result in results} == {"This is document 1", "This is document 2"}
        assert all(math.isfinite(result.score) for result in results)


def test_words_and_meaning_come_together(make: Callable[..., VectorStore]) -> None:
    with make(embedder=by_colour) as store:
        store.add_documents(["a red apple", "a green apple", "the blue sea", "red wine"], ids=["ra", "ga", "bs", "rw"])
        assert ids(store.search("red apple"))[0] == "ra"
        assert set(ids(store.search("red", mode="dense", top_k=2))) == {"ra", "rw"}
        assert ids(store.search("sea", mode="bm25")) == ["bs"]
        assert set(ids(store.search("apple", mode="bm25"))) == {"ra", "ga"}


def test_vectors_may_come_with_the_documents(make: Callable[..., VectorStore]) -> None:
    with make(embedder=None) as store:
        store.add_documents(["one", "two"], ids=["a", "b"], vectors=[[1, 0], [0, 1]])
        results = store.search(vector=[0.9, 0.1], mode="dense")
        assert ids(results) == ["a", "b"]
        assert results[0].score == pytest.approx(0.9 / math.hypot(0.9, 0.1), abs=1e-5)
        assert store.get("b").vector is not None


def test_the_same_id_again_replaces(make: Callable[..., VectorStore]) -> None:
    with make(embedder=by_colour) as store:
        assert store.add_documents(["red"], ids=["x"], metadatas=[{"n": 1}]) == ["x"]
        assert store.add_documents(["blue"], ids=["x"], metadatas=[{"n": 2}]) == ["x"]
        assert len(store) == 1
        assert store.search("red", mode="bm25") == []
        results = store.search("blue", mode="bm25")
        assert [(result.text, result.metadata) for result in results] == [("blue", {"n": 2})]


def test_deleting_and_filtering(make: Callable[..., VectorStore]) -> None:
    with make(embedder=None) as store:
        store.add_documents(["t"] * 4, ids=list("abcd"), metadatas=[{"n": number} for number in range(4)])
        assert ids(store.search("t", filter={"n": {"$gte": 2}})) == ["c", "d"]
        assert store.delete(filter={"n": {"$lt": 2}}) == 2
        assert store.delete(ids=["c", "nobody"]) == 1
        assert ids(store.search("t")) == ["d"]
        with pytest.raises(NotFound):
            store.get("a")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.add_documents("one text"), "list of texts"),
        (lambda s: s.add_documents(["a", "b"], ids=["x"]), "2 texts, but 1 ids"),
        (lambda s: s.add_documents(["a", "b"], ids=["x", "x"]), "stands twice"),
        (lambda s: s.add_documents(["a", "b"], vectors=[[1, 2], [1, 2, 3]]), "3"),
        (lambda s: s.add_documents(["a"], vectors=[[1, float("nan")]]), "not finite"),
        (lambda s: s.add_documents(["\ud800"]), "Unicode"),
        (lambda s: s.add_documents(["a"], metadatas=[{"f": {1, 2}}]), "not JSON"),
        (lambda s: s.search("a", top_k=0), "top_k"),
        (lambda s: s.search("a", mode="magic"), "hybrid, dense, bm25"),
        (lambda s: s.search("a", mode="dense"), "embedder"),
        (lambda s: s.search("a", filter={"n": {"$near": 3}}), "near"),
        (lambda s: s.delete(), "either"),
        (lambda s: s.delete(filter={}), "every document"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_kept(
    make: Callable[..., VectorStore], call: Callable[[VectorStore], object], message: str
) -> None:
    with make(embedder=None) as store:
        with pytest.raises(InvalidRequest, match=message.replace("(", r"\(")):
            call(store)
        assert len(store) == 0
        store.add_documents(["good"])
        assert len(store) == 1


def test_what_was_acknowledged_is_there_after_reopening(tmp_path: Path) -> None:
    with VectorStore(tmp_path / "s", embedder=by_colour, metric="dot") as store:
        store.add_documents(["red one", "blue two"], ids=["r", "b"], metadatas=[{"k": "中文"}, None])
    with VectorStore(tmp_path / "s", embedder=by_colour) as store:
        assert ids(store.search("red", mode="dense")) == ["r", "b"]
        assert store.get("r").metadata == {"k": "中文"}
        assert store.collection.options.metric == "dot"


def test_another_embedder_is_refused(tmp_path: Path) -> None:
    with VectorStore(tmp_path / "s", embedder=by_colour) as store:
        store.add_documents(["red"], ids=["r"])

    def other(texts: list[str]) -> NDArray[np.float32]:
        return np.ones((len(texts), 3), np.float32)

    with VectorStore(tmp_path / "s", embedder=other) as store:
        with pytest.raises(InvalidRequest, match="reembed"):
            store.add_documents(["blue"])
        with pytest.raises(InvalidRequest, match="reembed"):
            store.search("blue")
        assert ids(store.search("red", mode="bm25")) == ["r"]


def test_two_stores_on_one_path_see_each_other(tmp_path: Path) -> None:
    with VectorStore(tmp_path / "s", embedder=None) as one, VectorStore(tmp_path / "s", embedder=None) as two:
        one.add_documents(["hello"], ids=["a"])
        assert ids(two.search("hello")) == ["a"]
        two.add_documents(["hello there"], ids=["b"])
        assert set(ids(one.search("hello"))) == {"a", "b"}
        two.delete(["a"])
        assert ids(one.search("hello")) == ["b"]


def test_a_closed_store_says_so(make: Callable[..., VectorStore]) -> None:
    store = make(embedder=None)
    store.close()
    with pytest.raises(NotFound, match="closed"):
        store.search("x")


@pytest.mark.slow
@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_readmes_example_runs_as_written(readme: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text(), re.DOTALL)
    code = next(block for block in blocks if "VectorStore" in block)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert {line.partition("Text: ")[2] for line in lines} == {"This is document 1", "This is document 2"}
    assert all(math.isfinite(float(line.split()[1].rstrip(","))) for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metric", ["euclidean", "dot", "cosine"])
@pytest.mark.parametrize("exact", [True, False])
def test_no_score_is_minus_zero(make: Callable[..., VectorStore], metric: str, exact: bool) -> None:
    with make(embedder=None, metric=metric) as store:
        store.add_documents(["same", "none"], vectors=[[-1.0], [0.0]])
        for vector in ([-1.0], [0.0]):
            for result in store.search(vector=vector, mode="dense", exact=exact):
                assert math.copysign(1, result.score) == 1 or result.score < 0


def test_a_range_is_on_one_element_of_a_list(make: Callable[..., VectorStore]) -> None:
    with make(embedder=None) as store:
        store.add_documents(["tea", "tea"], ids=["apart", "within"], metadatas=[{"v": [1, 10]}, {"v": [1, 5]}])
        for _ in range(2):
            assert ids(store.search("tea", filter={"v": {"$gt": 2, "$lt": 9}})) == ["within"]
            assert store.delete(filter={"v": {"$gt": 2, "$lt": 4}}) == 0
            store.optimize()


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"foo": 1}, "foo"),
        ({"metric": "l2"}, "metric"),
        ({"dimension": "many"}, "dimension"),
        ({"embedder": 5}, "embedder"),
    ],
)
def test_options_that_are_wrong_are_named(options: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{param}'"):
        VectorStore(**{"embedder": None, **options})  # type: ignore[arg-type]


def test_a_callable_is_known_by_the_name_that_it_is_given(tmp_path: Path) -> None:
    def of_a_script(texts: list[str]) -> NDArray[np.float32]:
        return by_colour(texts)

    of_a_script.__module__, of_a_script.__qualname__ = "__main__", "of_a_script"
    with VectorStore(tmp_path / "store", embedder=of_a_script) as store:
        store.add_documents(["red wine"])
    with VectorStore(tmp_path / "store", embedder=by_colour) as store:
        with pytest.raises(InvalidRequest, match=r"embedder_name='__main__\.of_a_script'") as caught:
            store.search("red")
        assert "store.collection.reembed('function')" in caught.value.message
    refused = pytest.raises(
        InvalidRequest, match=r"with the function that made them: .* embedder_name='__main__\.of_a_"
    )
    with VectorStore(tmp_path / "store") as store, refused:
        store.search("red")
    with VectorStore(tmp_path / "store", embedder=by_colour, embedder_name="__main__.of_a_script") as store:
        assert [result.text for result in store.search("red", mode="dense")] == ["red wine"]
        store.add_documents(["the blue sea"])
    with VectorStore(tmp_path / "store", embedder=by_colour) as store:
        store.collection.reembed("function")
        assert [result.text for result in store.search("blue", mode="dense", top_k=1)] == ["the blue sea"]
    with VectorStore(tmp_path / "store", embedder=by_colour) as store:
        assert store.collection.identity.embedder == f"function/{by_colour.__module__}.by_colour"


@pytest.mark.parametrize("embedder", [None, "auto", "none"])
def test_only_a_callable_takes_a_name(embedder: str | None) -> None:
    with pytest.raises(InvalidRequest, match="embedder_name"):
        VectorStore(embedder=embedder, embedder_name="mine")


@pytest.mark.slow
def test_a_store_of_a_script_is_opened_by_a_module_that_imports_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom sage.middleware.retrieval import VectorStore\n"
        "def embed(texts):\n    return [[len(text), 1.0] for text in texts]\n"
        "if __name__ == '__main__':\n"
        "    with VectorStore(sys.argv[1], embedder=embed) as store:\n        store.add_documents(['tea'])\n"
    )
    importing = (
        "import sys, script\nfrom sage.middleware.retrieval import VectorStore\n"
        "with VectorStore(sys.argv[1], embedder=script.embed, embedder_name='__main__.embed') as store:\n"
        "    print(store.search('tea', mode='dense')[0].text)\n"
    )
    path, env = str(tmp_path / "store"), {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    subprocess.run([sys.executable, str(script), path], check=True, env=env)
    found = subprocess.run([sys.executable, "-c", importing, path], check=True, env=env, capture_output=True, text=True)
    assert found.stdout == "tea\n"
