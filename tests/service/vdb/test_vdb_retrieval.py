"""What the vector service does on our own engine: words, files, several processes; and how one is made."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage.errors import InvalidRequest, NotFound
from sage.kernels.runtime.services.local_host import LocalHost
from sage.kernels.runtime.services.registry import Services
from sage.service import VDBService, create_vdb_service_factory

_WRITER = """
import sys
from sage.service import VDBService
with VDBService(persist_directory=sys.argv[1]) as service:
    for n in range(20):
        service.add([{"id": f"{sys.argv[2]}.{n}", "vector": [1, n], "metadata": {"from": sys.argv[2]}}])
    print(service.count({"from": sys.argv[2]}))
"""


def ids(results: list[dict[str, Any]]) -> list[str]:
    return [result["id"] for result in results]


def letters(texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """How often ``a`` and ``b`` stand in each text."""
    return np.array([[text.count("a") + 0.1, text.count("b") + 0.1] for text in texts], np.float32)


def ones(texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ones((len(texts), 2), np.float32)


def test_text_is_found_by_words_without_an_embedder() -> None:
    with VDBService() as service:
        service.add([{"id": "cats", "text": "cats sleep all day"}, {"id": "dogs", "text": "dogs bark"}])
        service.add([{"id": "vector", "vector": [1, 0], "text": "a cat in vectors"}])
        results = service.search(text="sleeping cats")
        assert ids(results)[0] == "cats"
        assert results[0]["scores"]["dense"] is None
        assert results[0]["scores"]["bm25"] > 0
        assert ids(service.search(text="cat", mode="bm25", where={"x": 1})) == []
        with pytest.raises(InvalidRequest, match="has no embedder, so a dense search must bring its 'vector'"):
            service.search(text="cats", mode="dense")
        assert ids(service.search([1, 0])) == ["vector"]


def test_words_and_vectors_are_joined_and_explained() -> None:
    with VDBService(embedder=letters) as service:
        service.add(
            [{"id": "a", "text": "aaa zebra"}, {"id": "b", "text": "bbb lion"}, {"id": "both", "text": "aab lion"}]
        )
        by_text = service.search(text="lion aa", options={"explain": True})
        assert ids(by_text)[0] == "both"
        assert by_text[0]["explanation"]["fusion"] == "minmax"
        assert by_text[0]["scores"]["dense"] is not None
        assert by_text[0]["scores"]["bm25"] is not None
        assert ids(service.search(letters(["b"])[0], text="zebra", options={"alpha": 0.0}))[0] == "a"
        assert ids(service.search(letters(["b"])[0], text="zebra", options={"alpha": 1.0}))[0] == "b"
        assert ids(service.search(text="lion aaa", mode="dense"))[0] == "a"
        assert "<em>" in service.search(text="zebra", n_results=1, options={"highlight": True})[0]["highlights"][0]
        assert ids(service.search(text="lion", n_results=3, options={"fusion": "rrf", "alpha": 0.1}))[:2] == [
            "b",
            "both",
        ]


def test_what_is_in_files_is_there_again_with_metric_and_dimension(tmp_path: Path) -> None:
    directory = str(tmp_path / "vectors")
    with VDBService(persist_directory=directory, distance_metric="l2", dimension=2) as service:
        service.add([{"id": "a", "vector": [3, 4], "metadata": {"n": 1}, "text": "kept"}])
    with VDBService(persist_directory=directory) as service:
        assert service.health() == {"backend": "retrieval", "durable": True}
        assert service.search([0, 0])[0]["score"] == pytest.approx(-5.0)
        assert service.get("a", vector=True) == {"id": "a", "metadata": {"n": 1}, "text": "kept", "vector": [3.0, 4.0]}
        with pytest.raises(InvalidRequest, match=r"items\[0\]: 'vector' has 3 dimensions, but .* 2"):
            service.add([{"vector": [1, 2, 3]}])


def test_another_embedders_vectors_are_not_mixed_in(tmp_path: Path) -> None:
    directory = str(tmp_path / "vectors")
    with VDBService(persist_directory=directory, embedder=letters) as service:
        service.add([{"id": "a", "text": "aaa"}])
    with VDBService(persist_directory=directory, embedder=ones) as service:
        with pytest.raises(InvalidRequest, match=r"were made by 'function/.*letters'"):
            service.add([{"text": "bbb"}])
        assert service.count() == 1


@pytest.mark.parametrize("shards", [0, 2])
def test_a_callable_is_known_by_the_name_that_it_is_given(tmp_path: Path, shards: int) -> None:
    options: dict[str, Any] = {"persist_directory": str(tmp_path / "vectors"), "shards": shards}
    with VDBService(embedder=letters, embedder_name="letters-1", **options) as service:
        service.add([{"id": "a", "text": "aaa"}])
    refused = pytest.raises(InvalidRequest, match="embedder_name='letters-1'")
    with VDBService(embedder=letters, **options) as service, refused:
        service.add([{"text": "bbb"}])
    with VDBService(embedder=letters, embedder_name="letters-1", **options) as service:
        service.add([{"text": "bbb"}])
        assert service.count() == 2


@pytest.mark.slow
def test_two_processes_write_to_one_directory_and_each_sees_all(tmp_path: Path) -> None:
    directory = str(tmp_path / "vectors")
    with VDBService(persist_directory=directory) as service:
        children = [
            subprocess.Popen([sys.executable, "-c", _WRITER, directory, name], stdout=subprocess.PIPE, text=True)
            for name in ("one", "two")
        ]
        for n in range(20):
            service.add([{"id": f"mine.{n}", "vector": [1, n], "metadata": {"from": "mine"}}])
        for child in children:
            out, _ = child.communicate(timeout=60)
            assert (child.returncode, out.strip()) == (0, "20")
        assert service.count() == 60
        assert len(service.search([1, 0], n_results=100, where={"from": {"$in": ["one", "two"]}})) == 40


def test_updates_through_two_services_on_one_directory_lose_no_field(tmp_path: Path) -> None:
    directory = str(tmp_path / "vectors")
    with VDBService(persist_directory=directory) as one, VDBService(persist_directory=directory) as two:
        one.add([{"id": "a", "vector": [1, 0], "text": "start", "metadata": {"n": 0}}])

        def change(number: int) -> None:
            start.wait()
            for n in range(20):
                change: dict[str, Any] = {"text": f"{n}"} if number % 2 else {"metadata": {"n": n}}
                (one, two)[number // 2].update("a", **change)

        start = threading.Barrier(4)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(change, range(4)))
        assert two.get("a") == {"id": "a", "text": "19", "metadata": {"n": 19}}
        assert one.count() == 1


def test_an_update_never_brings_back_what_was_deleted(tmp_path: Path) -> None:
    directory = str(tmp_path / "vectors")
    with VDBService(persist_directory=directory, embedder=letters) as one:
        one.add([{"id": "a", "text": "aaa"}])

        def deleting(texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
            one.delete(["a"])
            return letters(texts)

        deleting.__qualname__ = letters.__qualname__  # the same one, as far as a collection can tell
        two = VDBService(persist_directory=directory, embedder=deleting)
        with two, pytest.raises(NotFound, match="no item 'a'"):
            two.update("a", text="bbb")
        assert one.count() == 0


def test_after_a_purge_no_file_has_a_byte_of_what_was_deleted(tmp_path: Path) -> None:
    with VDBService(persist_directory=str(tmp_path / "vectors")) as service:
        items = [
            {"id": f"{n}", "vector": [1, n], "text": f"secret{n} text", "metadata": {"m": f"hidden{n}"}}
            for n in range(50)
        ]
        service.add(items)
        service.update("1", text="other", metadata={})
        service.delete(["0"])
        service.purge()
        assert service.count() == 49
        content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert b"secret2 text" in content
        for trace in (b"secret0 ", b'hidden0"', b"secret1 ", b'hidden1"'):
            assert trace not in content


def test_what_is_in_memory_is_gone_with_the_service() -> None:
    service = VDBService()
    with service:
        service.add([{"vector": [1, 0]}])
    with service:
        assert service.collections() == []


def test_a_tenants_collections_are_in_no_other_tenants_files(tmp_path: Path) -> None:
    with VDBService(persist_directory=str(tmp_path / "vectors")) as service:
        service.add([{"vector": [1, 0]}], tenant="../../escaped", collection="c")
        assert service.collections(tenant="../../escaped") == ["c"]
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]


def test_nonsense_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"backend": "chromadb"}, "no backend 'chromadb'; there are: retrieval, chroma"),
        ({"distance_metric": "manhattan"}, "no distance_metric 'manhattan'; there are: cosine"),
        ({"dimension": 0}, "'dimension' must be a whole number"),
        ({"dimension": True}, "'dimension' must be a whole number"),
        ({"embedder": 5}, "'embedder' must be"),
        ({"url": "http://localhost:8000"}, "'url' is of a Chroma server"),
        (
            {"backend": "chroma", "url": "http://localhost:8000", "persist_directory": "x"},
            "'url' is of a Chroma server",
        ),
    ]
    for options, message in wrong:
        with pytest.raises(InvalidRequest, match=message):
            VDBService(**options)
    with pytest.raises(InvalidRequest, match="cannot be a collection's name"):
        VDBService(collection_name="a/b")
    with pytest.raises(InvalidRequest, match="'dimension' is 5, but the embedder"):
        VDBService(embedder=_Fixed(), dimension=5).setup()


class _Fixed:
    """An embedder as the registry has them."""

    name = "test/fixed"
    dimension = 2
    languages = None

    def embed(self, texts: list[str], *, query: bool = False) -> np.ndarray[Any, np.dtype[np.float32]]:
        return letters(list(texts))


def test_an_embedder_of_the_registrys_kind_serves(tmp_path: Path) -> None:
    with VDBService(embedder=_Fixed(), persist_directory=str(tmp_path)) as service:
        service.add([{"id": "a", "text": "aaa"}, {"id": "b", "text": "bbb"}])
        assert ids(service.search(text="b", mode="dense")) == ["b", "a"]


def test_a_factory_takes_the_services_keywords_and_names_the_nearest() -> None:
    factory = create_vdb_service_factory(
        collection_name="docs", dimension=2, persist_directory=None, distance_metric="ip", backend="retrieval"
    )
    services = Services("test", LocalHost)
    services.register("vdb_service", VDBService, factory)
    services.start()
    try:
        vdb = services.call["vdb_service"]
        assert vdb.add([{"id": "a", "vector": [2, 0]}]) == ["a"]
        assert vdb.search([3, 0])[0]["score"] == 6.0
        assert vdb.collections() == ["docs"]
        with pytest.raises(InvalidRequest, match="3 dimensions"):
            vdb.search([1, 2, 3])
    finally:
        services.stop()
    with pytest.raises(InvalidRequest, match="VDBService takes no 'dimensions'; did you mean 'dimension'"):
        create_vdb_service_factory(dimensions=3)
    with pytest.raises(InvalidRequest, match="takes no 'xyz'; it takes: backend, collection_name"):
        create_vdb_service_factory(xyz=3)


def test_those_of_some_ids_that_are_there_are_found() -> None:
    with VDBService() as vdb:
        assert vdb.find(["a"]) == []
        vdb.add([{"id": "a", "vector": [1.0, 0.0], "metadata": {"n": 1}}])
        assert vdb.find(["b", "a"], vector=True) == [
            {"id": "a", "metadata": {"n": 1}, "text": "", "vector": [1.0, 0.0]}
        ]
