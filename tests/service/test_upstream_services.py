"""Names that programs written for upstream SAGE use: they work, and what has another name here says which."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage.api.local_environment import LocalEnvironment
from sage.errors import InvalidRequest
from sage.kernels.runtime.old_names import _log_once
from sage.kernels.runtime.service.base_service_task import BaseServiceTask
from sage.service import (
    KVService,
    MemoryOrchestratorService,
    VDBService,
    create_kv_service_factory,
    create_memory_service_factory,
    create_vdb_service_factory,
)

ITEMS = [
    {"id": "x", "vector": [1.0, 0.0], "text": "about x", "metadata": {"kind": "axis"}},
    {"id": "y", "vector": [0.0, 1.0], "text": "about y", "metadata": {"kind": "axis"}},
    {"id": "far", "vector": [3.0, 0.5], "metadata": {"kind": "other"}},
]


@pytest.fixture
def vdb() -> Iterator[VDBService]:
    with VDBService() as service:
        service.add(ITEMS)
        yield service


@pytest.fixture
def memory() -> Iterator[MemoryOrchestratorService]:
    with MemoryOrchestratorService(embedder="none") as service:
        yield service


def ids(results: list[dict[str, Any]]) -> list[str]:
    return [result["id"] for result in results]


def warned(match: str) -> Any:
    return pytest.warns(DeprecationWarning, match=match)


# Factories

FACTORIES: list[tuple[Callable[..., Any], dict[str, Any], str, dict[str, Any]]] = [
    (create_kv_service_factory, {"service_name": "kv", "max_size": 5}, "'service_name' has no effect", {"max_size": 5}),
    (create_vdb_service_factory, {"service_name": "v"}, "'service_name' has no effect: the name is given to", {}),
    (create_vdb_service_factory, {"embedding_dimension": 3}, "old name; write 'dimension'", {"dimension": 3}),
    (create_vdb_service_factory, {"max_vectors": 10}, "'max_vectors' has no effect: a collection has no bound", {}),
    (create_vdb_service_factory, {"faiss_config": {"HNSW_M": 32}}, "'faiss_config' has no effect", {}),
    (create_vdb_service_factory, {"index_type": "IndexHNSWFlat"}, "the index is chosen by size", {}),
    (create_vdb_service_factory, {"index_type": "IndexFlatL2"}, "chosen by size", {"distance_metric": "euclidean"}),
    (create_vdb_service_factory, {"index_type": "IndexFlatIP"}, "chosen by size", {"distance_metric": "dot"}),
    (create_vdb_service_factory, {"similarity_threshold": 0.8}, "'score_threshold'", {"score_threshold": 0.8}),
    (create_memory_service_factory, {"service_name": "m"}, "'service_name' has no effect", {}),
    (create_memory_service_factory, {"default_vector_dimension": 3}, "write 'dimension'", {"dimension": 3}),
    (create_memory_service_factory, {"data_dir": "d"}, "write 'persist_directory'", {"persist_directory": "d"}),
    (create_memory_service_factory, {"enable_caching": True}, "'enable_caching' has no effect", {}),
    (create_memory_service_factory, {"graph_service_name": "g"}, "there is no graph service", {}),
    (create_memory_service_factory, {"enable_knowledge_graph": True}, "there is no graph service", {}),
]


@pytest.mark.parametrize(
    ("create", "options", "message", "now"), FACTORIES, ids=lambda value: str(value)[:40] if value else None
)
def test_old_options_of_factories_have_their_effect_and_warn(
    create: Callable[..., Any], options: dict[str, Any], message: str, now: dict[str, Any]
) -> None:
    with warned(message) as caught:
        factory = create(**options)
    assert caught[0].filename == __file__  # the line that is to be changed
    assert factory.kwargs == now
    factory()


def test_a_factory_takes_the_services_name_as_its_first_argument() -> None:
    for create in (create_kv_service_factory, create_vdb_service_factory, create_memory_service_factory):
        with warned("the name is given to env.register_service"):
            factory = create("some_service")
        assert factory.service_name == "some_service"
        assert factory.service_class.__name__.endswith("Service")


def test_an_option_by_both_of_its_names_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'embedding_dimension' is the old name of 'dimension'"):
        create_vdb_service_factory(embedding_dimension=3, dimension=3)


REFUSED: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (create_vdb_service_factory, {"distance_metric": "manhattan"}, "no distance_metric 'manhattan'; there are: cosine"),
    (create_vdb_service_factory, {"dimension": 0}, "'dimension' must be"),
    (create_vdb_service_factory, {"score_threshold": 2}, "'score_threshold' must be a number, 0 to 1"),
    (create_kv_service_factory, {"backend_type": "redis"}, "needs 'redis_url'"),
    (create_memory_service_factory, {"evict": "newest"}, "'evict' must be"),
    (create_memory_service_factory, {"max_search_results": 0}, "'max_search_results' must be"),
    (create_memory_service_factory, {"max_results": 5}, "did you mean 'max_search_results'"),
]


@pytest.mark.parametrize(("create", "options", "message"), REFUSED)
def test_a_factory_refuses_what_the_service_would_refuse(
    create: Callable[..., Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        create(**options)


def test_a_threshold_of_the_service_holds_for_searches_that_name_none() -> None:
    with VDBService(score_threshold=0.9) as vdb:
        vdb.add(ITEMS)
        assert ids(vdb.search([1, 0])) == ["x", "far"]
        assert ids(vdb.search([1, 0], score_threshold=0.0)) == ["x", "far", "y"]


# The vector service


def test_searches_take_old_keywords(vdb: VDBService) -> None:
    now = vdb.search([0.9, 0.1], 2, {"kind": "axis"})
    assert ids(now) == ["x", "y"]
    calls: list[dict[str, Any]] = [
        {"query_vector": [0.9, 0.1], "n_results": 2, "where": {"kind": "axis"}},
        {"query": [0.9, 0.1], "top_k": 2, "filters": {"kind": "axis"}},
        {"query_vector": [0.9, 0.1], "top_k": 2, "metadata_filter": {"kind": "axis"}},
    ]
    for options in calls:
        with warned("is an old name; write '(vector|n_results|where)'") as caught:
            assert vdb.search(**options) == now
        assert {warning.filename for warning in caught} == {__file__}
    with warned("write 'score_threshold'"):
        assert ids(vdb.search([1, 0], similarity_threshold=0.9)) == ["x", "far"]  # type: ignore[call-arg]
    with warned("write 'text'"):
        assert ids(vdb.search(n_results=1, query="about y")) == ["y"]  # type: ignore[call-arg]
    with pytest.raises(InvalidRequest, match="'query_vector' is the old name of 'vector'"):
        vdb.search(vector=[1, 0], query_vector=[1, 0])  # type: ignore[call-arg]


def test_methods_of_the_old_vector_service(vdb: VDBService) -> None:
    with warned(r"write add\("):
        assert vdb.add_vectors([{"id": "new", "vector": [1, 1]}]) == ["new"]
    with warned(r"write add\("):
        assert vdb.add_vectors(vectors=[[2, 2], [4, 4]], ids=["p", "q"], metadata=[{"n": 1}, {"n": 2}]) == ["p", "q"]
    with warned("write search"):
        found = vdb.search_vectors([1, 0], top_k=1, metadata_filter={"kind": "axis"})
    assert (found[0]["id"], found[0]["score"]) == ("x", 1.0)
    with warned("write get"):
        assert vdb.get_vector("q") == {"id": "q", "vector": [4.0, 4.0], "metadata": {"n": 2}, "text": ""}
    with warned("write update"):
        assert vdb.update_vector("q", {"id": "q", "vector": [5, 5], "text": "five"}) is True
    with warned("write update"):
        assert vdb.update_vector("none", {"vector": [5, 5]}) is False
    assert vdb.get("q", vector=True) == {"id": "q", "vector": [5.0, 5.0], "metadata": {"n": 2}, "text": "five"}
    with warned("write list_items"):
        assert ids(vdb.list_vectors({"kind": "axis"})) == ["x", "y"]
    with warned("write delete"):
        assert vdb.delete_vectors(["p", "q", "none"]) == 2
    with pytest.raises(InvalidRequest, match="2 vectors, and 1 ids"), warned("add"):
        vdb.add_vectors(vectors=[[1, 1], [1, 2]], ids=["one"])


# The memory service


def test_memories_are_searched_by_vector_under_old_names(memory: MemoryOrchestratorService) -> None:
    with warned("'create_knowledge_graph' has no effect: there is no graph service"):
        near = memory.store_memory("s", "near", [1.0, 0.0], create_knowledge_graph=True)  # type: ignore[call-arg]
    memory.store_memory("s", "elsewhere", [0.0, 1.0], "note")
    (now, *_) = memory.search_memories(vector=[1.0, 0.1], limit=1)
    assert now["id"] == near
    assert now["similarity_score"] == now["score"] > 0.99
    assert now["timestamp"] == now["created_at"]
    with warned("write 'vector'"):
        assert memory.search_memories(query_vector=[1.0, 0.1], session_id="s", limit=1) == [now]  # type: ignore[call-arg]
    for vector in ([1.0, 0.1], (1.0, 0.1), np.array([1.0, 0.1])):
        with warned(r"write search_memories\(vector=…\)"):
            assert memory.search_memories(vector, limit=1) == [now]
    with warned("write 'limit'"):
        assert ids(memory.search_memories("near", top_k=1)) == [near]  # type: ignore[call-arg]
    with warned("write search_memories"):
        assert memory.retrieve_memories([1.0, 0.1], session_id="s", top_k=1) == [now]
    with warned("write 'id'"):
        assert memory.get_memory(memory_id=near)["content"] == "near"  # type: ignore[call-arg]
    with warned("write 'id'"):
        assert memory.delete_memory(memory_id=near) is True  # type: ignore[call-arg]
    with warned("write clear_session"):
        assert memory.clear_session_memories("s") == 1


def test_a_query_that_is_neither_text_nor_vector_is_refused(memory: MemoryOrchestratorService) -> None:
    with pytest.raises(InvalidRequest, match="vector"), warned("vector"):
        memory.search_memories(5)  # type: ignore[arg-type]


def test_max_search_results_bounds_every_search() -> None:
    with MemoryOrchestratorService(embedder="none", max_search_results=2) as memory:
        for number in range(4):
            memory.store_memory("s", f"word {number}")
        assert len(memory.search_memories("word", limit=50)) == 2
        assert len(memory.search_memories("word", limit=1)) == 1


# What needs no other name, so nothing warns


def test_results_that_old_programs_wait_for(vdb: VDBService, memory: MemoryOrchestratorService) -> None:
    with warnings.catch_warnings(), KVService(max_size=10, ttl_seconds=60) as kv:
        warnings.simplefilter("error")
        assert kv.put("k", 1) is True
        assert kv.get("none") is None
        assert kv.stats() == {
            "service_name": "KVService", "service_type": "KVService", "backend_type": "memory", "storage_size": 1,
            "max_size": 10, "ttl_seconds": 60.0,
        }  # fmt: skip
        assert vdb.get("none") is None
        assert vdb.delete("far") == 1
        stats = vdb.stats()
        assert (stats["total_vectors"], stats["distance_metric"], stats["backend"]) == (2, "cosine", "retrieval")
        assert memory.get_memory("none") is None
        assert memory.get_session_metadata("none") is None
        memory.store_memory("s", "one")
        memory.store_memory("s", "two")
        stats = memory.stats()
        assert (stats["sessions"], stats["memories"], stats["vdb_service_name"]) == (1, 2, None)
        assert vdb.clear() == 2
        assert vdb.stats()["total_vectors"] == 0


def test_stats_through_calls_count_the_calls() -> None:
    env = LocalEnvironment("stats")
    env.register_service("kv_service", KVService, create_kv_service_factory())
    env.register_service("vdb_service", VDBService, create_vdb_service_factory())
    env.register_service("memory_service", create_memory_service_factory(embedder=None, max_search_results=50))
    with env:
        for _ in range(3):
            env.call_service["kv_service"].put("k", 1)
        assert env.call_service["kv_service"].stats()["calls"] == 3
        env.call_service["memory_service"].store_memory("s", "text", [1.0, 0.0])
        stats = env.call_service["memory_service"].stats()
        assert (stats["kv_service_name"], stats["vdb_service_name"]) == ("kv_service", "vdb_service")
        assert (stats["max_search_results"], stats["memories"]) == (50, 1)


def test_a_call_through_the_queue_logs_its_old_name_once(caplog: pytest.LogCaptureFixture) -> None:
    env = LocalEnvironment("log")
    env.register_service("vdb_service", create_vdb_service_factory())
    _log_once.cache_clear()  # another test may have used the name
    with warned("write 'n_results'"), VDBService() as vdb:
        vdb.search([1.0], top_k=4)  # type: ignore[call-arg]
    assert caplog.text == ""  # the warning names the line
    with env, warned("write 'n_results'"):
        for _ in range(3):
            env.call_service["vdb_service"].search([1.0], top_k=3)
    assert caplog.text.count("search(): 'top_k' is an old name; write 'n_results'") == 1


# Services whose __init__ takes (service_factory, ctx)


class OldCounter(BaseServiceTask):
    """A service as the guides of upstream SAGE write it."""

    def __init__(self, service_factory: Any, ctx: Any = None) -> None:
        super().__init__(service_factory, ctx)
        self.config = getattr(service_factory, "config", {"start": 0})
        self.total = self.config["start"]
        self.logger.info("made as %s", self.service_name)

    def _start_service_instance(self) -> None:
        self.state = "started"

    def _stop_service_instance(self) -> None:
        self.logger.info("stopped at %s", self.total)

    def add(self, amount: int) -> int:
        self.total += amount
        self.ctx.service_manager.get_service_proxy("kv_service").put("total", self.total)
        return self.total

    def stats(self) -> dict[str, Any]:
        return {**self.get_statistics(), "state": self.state, "kept": self.call_service["kv_service"].get("total")}


class OldPlain:
    """One without a base."""

    def __init__(self, service_factory: Any, ctx: Any) -> None:
        self.name, self.context, self.greeting = service_factory.service_name, ctx, service_factory.greeting

    def greet(self) -> str:
        return f"{self.greeting} {self.name} {self.context.call_service['kv_service'].get('total')}"


def test_services_that_take_a_factory_and_a_context(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sage.service")
    env = LocalEnvironment("old")
    env.register_service("kv_service", KVService, create_kv_service_factory())
    with warned(r"OldCounter.__init__ takes \(service_factory, ctx\)") as caught:
        env.register_service("counter", OldCounter, config={"start": 40})
        env.register_service("zero", OldCounter)
    assert caught[0].filename == __file__
    with warned(r"OldPlain.__init__ takes \(service_factory, ctx\)"):
        env.register_service("plain", OldPlain, greeting="hello")
    with env:
        counter = env.call_service["counter"]
        assert counter.add(2) == 42
        assert env.call_service["plain"].greet() == "hello plain 42"
        stats = counter.stats()
        assert (stats["service_name"], stats["state"], stats["kept"]) == ("counter", "started", 42)
        assert stats["calls"] >= 1
        assert env.call_service["zero"].add(1) == 1
    assert "made as counter" in caplog.text
    assert "stopped at 42" in caplog.text


class Named(BaseServiceTask):
    """A service whose methods have names that our own base uses, too."""

    def logger(self) -> str:  # type: ignore[override]
        return "mine"

    def get_statistics(self) -> dict[str, Any]:
        return {"mine": True}


class Mixed(BaseServiceTask, dict[str, int]):
    """A service that takes its options by another base."""


def test_the_base_takes_no_name_from_a_service() -> None:
    env = LocalEnvironment("names")
    env.register_service("named", Named)
    env.register_service("mixed", Mixed, one=1)
    with env:
        assert env.call_service["named"].logger() == "mine"
        assert env.call_service["named"].get_statistics() == {"mine": True}
        assert env.call_service["mixed"].get("one") == 1
        assert [one["methods"] for one in env.services() if one["name"] == "named"] == [["get_statistics", "logger"]]
    with pytest.raises(TypeError):
        OldNothing(5)


class OldNothing(BaseServiceTask):
    pass


# All of it together, as the guide of upstream SAGE has it


def test_the_packages_of_the_services_have_their_names() -> None:
    from sage.service.kv import create_kv_service_factory as from_kv
    from sage.service.vdb import VDBService as VDBServiceOfPackage
    from sage.service.vdb import create_vdb_service_factory as from_vdb

    assert (from_kv, from_vdb) == (create_kv_service_factory, create_vdb_service_factory)
    assert VDBServiceOfPackage is VDBService
    with pytest.raises(ImportError):
        from sage.service.kv import nothing  # type: ignore[attr-defined]  # noqa: F401


def test_a_proxy_of_the_environment() -> None:
    env = LocalEnvironment("proxy")
    env.register_service("kv_service", create_kv_service_factory())
    with env:
        with warned(r"env.call_service\[name\]"):
            kv = env.get_service_proxy("kv_service")
        assert kv.put("k", 1) is True
        assert kv.get("k") == 1


def test_the_guides_way_through_the_services(tmp_path: Path) -> None:
    env = LocalEnvironment("guide", {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        kv = create_kv_service_factory(service_name="kv_service", backend_type="memory", max_size=10000)
        vdb = create_vdb_service_factory(
            service_name="vdb_service", collection_name="my_vectors", dimension=3, persist_directory=str(tmp_path),
            distance_metric="cosine",
        )  # fmt: skip
        memory = create_memory_service_factory(
            service_name="memory_service", kv_service_name="kv_service", vdb_service_name="vdb_service",
            default_vector_dimension=3, max_search_results=50, embedder=None,
        )  # fmt: skip
        for factory, name in ((memory, "memory_service"), (kv, "kv_service"), (vdb, "vdb_service")):
            env.register_service(name, factory.service_class, factory)
        with env:
            call = env.call_service
            assert call["kv_service"].put("key1", {"data": "value"})
            assert call["vdb_service"].search(query_vector=[0.1] * 3, n_results=5) == []
            call["vdb_service"].add([{"id": "doc1", "vector": [0.1] * 3, "metadata": {"type": "document"}}])
            assert ids(call["vdb_service"].search(query_vector=[0.1] * 3, n_results=5)) == ["doc1"]
            id = call["memory_service"].store_memory(
                session_id="session_123", content="用户的对话内容", vector=[0.1] * 3, memory_type="conversation"
            )
            found = call["memory_service"].search_memories(query_vector=[0.1] * 3, session_id="session_123", limit=5)
            assert [(one["id"], one["content"]) for one in found] == [(id, "用户的对话内容")]
            assert call["kv_service"].stats()["storage_size"] >= 1
