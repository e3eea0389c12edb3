"""What a forked process inherits can be read, and refuses to be written at once; the process above goes on with it."""

from __future__ import annotations

import os
import pickle
import select
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sage.errors import SageError
from sage.middleware.auth.accounts import Accounts
from sage.middleware.auth.passwords import HashCost
from sage.middleware.retrieval import VectorStore
from sage.middleware.settings.settings import Auth
from sage.service import KVService, MemoryOrchestratorService, VDBService

pytestmark = pytest.mark.slow
_SECONDS = 10.0
"""Within these a child answers, else it hangs."""


def in_child(call: Callable[[], Any]) -> Any:
    """What ``call`` returns in a forked process, or the code of the error that it raises."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: there are threads
        pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            try:
                result = call()
            except SageError as exc:
                result = exc.code
            os.write(writing, pickle.dumps(result))
        finally:
            os._exit(0)
    os.close(writing)
    try:
        readable, _, _ = select.select([reading], [], [], _SECONDS)
        if not readable:
            os.kill(pid, signal.SIGKILL)
        answer = os.read(reading, 2**16)
    finally:
        os.close(reading)
        os.waitpid(pid, 0)
    assert readable, "it hangs"
    return pickle.loads(answer)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_an_inherited_store_is_read_and_not_written(stack: ExitStack, tmp_path: Path, place: str) -> None:
    store = stack.enter_context(VectorStore(tmp_path / "store" if place == "disk" else None, embedder=None))
    store.add_documents(["red", "green"], ids=["1", "2"])
    assert in_child(lambda: [result.id for result in store.search("red")]) == ["1"]
    assert in_child(lambda: store.get("2").text) == "green"
    writes: list[Callable[[], Any]] = [
        lambda: store.add_documents(["blue"]),
        lambda: store.delete(["1"]),
        lambda: store.collection.update("1", text="x"),
        lambda: store.purge(1),
    ]
    assert [in_child(write) for write in writes] == ["forked"] * len(writes)
    assert in_child(store.close) is None
    store.add_documents(["blue"], ids=["3"])
    assert len(store) == 3


def test_a_store_of_its_own_works_in_a_forked_process(tmp_path: Path) -> None:
    with VectorStore(tmp_path / "store", embedder=None) as store:
        store.add_documents(["red"], ids=["1"])

    def write() -> int:
        with VectorStore(tmp_path / "store") as own:
            own.add_documents(["green"], ids=["2"])
            return len(own)

    assert in_child(write) == 2
    with VectorStore(tmp_path / "store") as store:
        assert len(store) == 2


@pytest.mark.parametrize("shards", [0, 2])
def test_a_vector_service_that_is_used_directly(stack: ExitStack, tmp_path: Path, shards: int) -> None:
    directory = str(tmp_path) if shards else None
    vdb = stack.enter_context(VDBService(persist_directory=directory, shards=shards))
    vdb.add([{"id": "a", "vector": [1, 0]}])
    vdb.search([1, 0])
    assert in_child(lambda: vdb.add([{"id": "b", "vector": [1, 0]}])) == "forked"
    assert in_child(lambda: vdb.update("a", text="x")) == "forked"
    assert in_child(lambda: vdb.delete(["a"])) == "forked"
    assert in_child(vdb.cleanup) is None
    vdb.add([{"id": "b", "vector": [0, 1]}])
    assert vdb.count() == 2


def test_a_memory_service_that_is_used_directly(stack: ExitStack) -> None:
    memory = stack.enter_context(MemoryOrchestratorService(embedder=None))
    id = memory.store_memory("s", "I like tea.")
    assert in_child(lambda: [found["id"] for found in memory.search_memories("tea")]) == [id]
    assert in_child(lambda: memory.store_memory("s", "And coffee.")) == "forked"
    assert in_child(lambda: memory.delete_memory(id)) == "forked"
    assert in_child(memory.cleanup) is None
    assert memory.store_memory("s", "And coffee.") != id


def test_a_key_value_store_on_sqlite(stack: ExitStack, tmp_path: Path) -> None:
    kv = stack.enter_context(KVService("sqlite", persist_directory=str(tmp_path)))
    kv.put("a", 1)
    assert in_child(lambda: kv.get("a")) == 1
    writes: list[Callable[[], Any]] = [lambda: kv.put("a", 2), lambda: kv.incr("a"), lambda: kv.clear("")]
    assert [in_child(write) for write in writes] == ["forked"] * 3
    assert in_child(kv.cleanup) is None
    kv.put("b", 2)
    assert kv.list_keys() == ["a", "b"]


def test_accounts_work_in_both_processes(stack: ExitStack, tmp_path: Path) -> None:
    accounts = Accounts(tmp_path, Auth(), hash_cost=HashCost(memory_kib=64))
    stack.callback(accounts.close)
    accounts.users.add("root", "correct horse battery staple", role="admin")

    def add() -> list[str]:
        accounts.users.add("child", "correct horse battery staple")
        names = [user.name for user in accounts.users.list()]
        accounts.close()
        return names

    assert in_child(add) == ["child", "root"]
    accounts.users.add("last", "correct horse battery staple")
    assert [user.name for user in accounts.users.list()] == ["child", "last", "root"]
