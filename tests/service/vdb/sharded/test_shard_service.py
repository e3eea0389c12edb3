"""Shards as services: a sharded collection over the calls of an environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage.errors import Conflict, InvalidRequest, NotFound, Unavailable
from sage.kernels.runtime.service.base_service_task import BaseServiceTask
from sage.kernels.runtime.services.local_host import LocalHost
from sage.kernels.runtime.services.registry import Services
from sage.middleware.retrieval.types.search import Mode, Search
from sage.middleware.retrieval.vector_store import VectorStore
from sage.service import VDBService
from sage.service.vdb.sharded.collection import ShardedCollection
from sage.service.vdb.sharded.shard_service import ShardService, register_shards, shards_of

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


class Environment:
    """The services of one."""

    def __init__(self) -> None:
        self.services = Services("shards", LocalHost)

    def register_service(self, name: str, service: Any, /, *args: Any, **kwargs: Any) -> None:
        self.services.register(name, service, *args, **kwargs)


@pytest.fixture
def environment() -> Iterator[Environment]:
    environment = Environment()
    yield environment
    environment.services.stop()


class Librarian(BaseServiceTask):
    """A service that searches the shards."""

    def setup(self) -> None:
        self._books = ShardedCollection("books", shards_of(self.call_service, "books", 3))

    def cleanup(self) -> None:
        self._books.close()

    def keep(self, documents: list[dict[str, Any]]) -> int:
        return self._books.add(documents).inserted

    def find(self, query: str) -> list[str]:
        return [result.id for result in self._books.search(Search(query)).results]


def test_the_answers_are_those_of_one_collection(environment: Environment, tmp_path: Path) -> None:
    names = register_shards(environment, "books", 3, tmp_path, metric="dot")
    assert names == ["books-shard-0", "books-shard-1", "books-shard-2"]
    environment.services.start()
    generator = np.random.default_rng(1)
    documents = [
        {"id": str(n), "text": f"amber {n % 7}", "vector": generator.normal(size=4).tolist(), "metadata": {"n": n % 3}}
        for n in range(100)
    ]
    with VectorStore(embedder=None, metric="dot") as store:
        ours = ShardedCollection("books", shards_of(environment.services.call, "books", 3))
        assert ours.add(documents) == store.collection.add(documents)
        for mode in Mode:
            search = Search("amber 3", vector=np.ones(4, np.float32), mode=mode, filter={"n": {"$ne": 1}}, exact=True)
            assert ours.search(search) == store.collection.search(search)
        with pytest.raises(NotFound, match="has no document"):
            ours.get("none")
        with pytest.raises(InvalidRequest, match=r"\$what"):
            ours.search(Search("amber", filter={"$what": 1}))
        ours.close()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0", "1", "2"]
    health = [service["health"] for service in environment.services.describe()]
    assert sum(each["documents"] for each in health) == 100


def test_a_service_that_searches_shards_passes_its_deadline_on(environment: Environment) -> None:
    register_shards(environment, "books", 3)
    environment.register_service("librarian", Librarian)
    environment.services.start()
    call = environment.services.call
    assert call["librarian"].keep([{"id": f"d{n}", "text": f"amber {n}"} for n in range(9)]) == 9
    assert call["librarian"].find("amber 4")[0] == "d4"


def test_a_shard_that_is_stopped_is_named(environment: Environment) -> None:
    register_shards(environment, "books", 2)
    environment.services.start()
    ours = ShardedCollection("books", shards_of(environment.services.call, "books", 2))
    ours.add([{"id": f"d{n}", "text": "amber"} for n in range(9)])
    environment.services._hosts["books-shard-1"].stop(1.0)
    with pytest.raises(Unavailable, match=r"collection 'books': shard 1 of 2 failed .*'books-shard-1' is stopped"):
        ours.search(Search("amber"))
    answer = ours.search(Search("amber"), partial=True)
    assert answer.total == sum(ours.shard_of(f"d{n}") == 0 for n in range(9))
    assert "of 1 of 2 shards only" in answer.warnings[0]
    ours.close()


def test_a_shard_stands_alone_too(tmp_path: Path) -> None:
    with ShardService(tmp_path / "0", metric="euclidean") as shard:
        assert shard.collection_options().metric == "euclidean"
        ours = ShardedCollection("alone", [shard])
        ours.add([{"id": "a", "text": "amber", "vector": [1, 2]}])
        ours.close()
    with pytest.raises(Unavailable, match="is not running"):
        shard.count()
    with ShardService(tmp_path / "0") as shard:
        assert shard.collection_options().metric == "euclidean"
        with pytest.raises(Conflict, match="made as one of 1 shards, not of 2"):
            ShardedCollection("alone", [shard, shard])
        ours = ShardedCollection("alone", [shard])
        assert ours.get("a").text == "amber"
        ours.close()


def test_a_vector_service_spreads_its_collections(tmp_path: Path) -> None:
    items = [{"id": f"d{n}", "vector": [1.0, n], "text": f"amber {n}", "metadata": {"n": n % 3}} for n in range(40)]
    with VDBService(persist_directory=str(tmp_path), shards=3) as service, VDBService() as single:
        for each in (service, single):
            each.add(items)
            each.update("d7", text="birch")
        for search in ({"vector": [1.0, 2.0]}, {"text": "amber 4"}, {"vector": [1.0, 2.0], "where": {"n": 1}}):
            assert service.search(**search) == single.search(**search)
        assert service.list_items(limit=1000, vectors=True) == single.list_items(limit=1000, vectors=True)
        some = ["d39", "nowhere", "d0", "d1"]
        assert service.find(some, vector=True) == single.find(some, vector=True) != []
        assert service.find([]) == []
        assert service.get("d7")["text"] == "birch"
        service.purge()
    assert len(list(tmp_path.glob("default/.shards-*/*/truth.db"))) == 3
    with VDBService(persist_directory=str(tmp_path)) as later:  # what it is, a collection stays
        assert later.count() == 40
        later.drop("default")
    assert list(tmp_path.glob("default/*")) == []


def test_shards_that_a_vector_service_cannot_have_are_refused(tmp_path: Path) -> None:
    for options, reason in (
        ({"shards": -1}, "0 \\(one store\\) to 1024"),
        ({"shards": True}, "0 \\(one store\\) to 1024"),
        ({"shards": 2}, "'persist_directory'"),
        ({"shards": 2, "backend": "chroma", "persist_directory": str(tmp_path)}, "backend 'retrieval'"),
    ):
        with pytest.raises(InvalidRequest, match=reason):
            VDBService(**options)
