"""The sessions of a memory service: kept in the key-value service, and never other than the collection has them."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sage.api.local_environment import LocalEnvironment
from sage.errors import NotFound, Unavailable
from sage.kernels.runtime.service.base_service_task import BaseServiceTask
from sage.service import (
    KVService,
    MemoryOrchestratorService,
    VDBService,
    create_kv_service_factory,
    create_memory_service_factory,
    create_vdb_service_factory,
)
from sage.service.memory_orchestrator.engine import MemoryEngine
from sage.service.memory_orchestrator.query import Period
from sage.service.memory_orchestrator.records import MemoryScope

SCOPE = MemoryScope("default")


class Memories(MemoryOrchestratorService):
    """A memory service whose stores a test hands in."""

    def __init__(self, kv: Any, vdb: Any, **options: Any) -> None:
        super().__init__(embedder="none", **options)
        self.given = kv, vdb

    def _kv(self) -> Any:
        return self.given[0]

    def _vdb(self) -> Any:
        return self.given[1]


@contextmanager
def two_services(directory: Path | None = None, shards: int = 0) -> Iterator[tuple[KVService, Memories, Memories]]:
    """Two memory services on the same stores: each is another process to the other one."""
    path = None if directory is None else str(directory)
    with (
        KVService() as kv,
        VDBService(persist_directory=path, shards=shards) as vdb,
        Memories(kv, vdb) as one,
        Memories(kv, vdb) as other,
    ):
        yield kv, one, other


def engine_of(memory: MemoryOrchestratorService) -> MemoryEngine:
    assert memory._engine is not None
    return memory._engine


def check(memory: MemoryOrchestratorService, scope: MemoryScope = SCOPE) -> None:
    """What it says of sessions is what the collection has."""
    engine, whose = engine_of(memory), {"user": scope.user}
    now = engine.clock.now()
    times = engine.collection.times_by(scope, now, "session")
    assert memory.list_sessions(limit=1000, **whose) == [
        {"session_id": name, "memories": count, "first_at": first, "last_at": last}
        for name, (count, first, last) in sorted(times.items())
    ]
    for name, (count, first, last) in times.items():
        described = memory.get_session_metadata(name, **whose)
        assert (described["memories"], described["first_at"], described["last_at"]) == (count, first, last)
        page = engine.collection.session_page(scope, name, now, 1000)
        assert memory.get_session_memories(name, limit=1000, **whose) == [record.to_dict() for record in page]
        period = {"start_time": first, "end_time": (first + last) / 2}
        early = [record.to_dict() for record in page if record.created <= period["end_time"]]
        assert memory.get_session_memories(name, limit=1000, **period, **whose) == early
        assert engine.collection.session_page(scope, name, now, 1000, period=Period(*period.values())) == [
            record for record in page if record.created <= period["end_time"]
        ]
        if len(page) > 1:
            after = memory.get_session_memories(name, limit=1, cursor=page[0].id, **whose)
            assert [one["id"] for one in after] == [page[1].id]


def make_environment(directory: Path) -> LocalEnvironment:
    env = LocalEnvironment("restart", {})
    env.register_service("memory_service", MemoryOrchestratorService, create_memory_service_factory(embedder=None))
    kv = create_kv_service_factory(backend_type="sqlite", persist_directory=str(directory / "kv"))
    env.register_service("kv_service", KVService, kv)
    env.register_service("vdb_service", create_vdb_service_factory(persist_directory=str(directory / "vdb")))
    return env


def test_registered_services_are_used_without_naming_them_and_keep_memories_over_a_restart(tmp_path: Path) -> None:
    with make_environment(tmp_path) as env:
        memory = env.call_service["memory_service"]
        id = memory.store_memory("s", "Mei lives in Lyon.", vector=[1.0, 0.0])
        sessions = memory.list_sessions()
        assert env.call_service["vdb_service"].collections() == ["memory"]
        keys = env.call_service["kv_service"].list_keys("memory/memory/sessions/")
        (kept,) = [env.call_service["kv_service"].get(key) for key in keys]
        assert kept["value"] == {"s": [1, sessions[0]["first_at"], sessions[0]["last_at"]]}
        calls = {service["name"]: service["statistics"]["calls"] for service in env.services()}
        assert calls["kv_service"] > 0
        assert calls["vdb_service"] > 0
    with make_environment(tmp_path) as env:
        memory = env.call_service["memory_service"]
        assert memory.get_memory(id)["content"] == "Mei lives in Lyon."
        assert memory.list_sessions() == sessions
        assert [one["id"] for one in memory.search_memories("Lyon")] == [id]


def test_without_registered_services_it_has_stores_of_its_own(tmp_path: Path) -> None:
    for options in ({}, {"persist_directory": str(tmp_path)}):
        env = LocalEnvironment("alone")
        env.register_service("memory", create_memory_service_factory(embedder=None, **options))
        if options:
            env.register_service("vdb_service", create_vdb_service_factory())
        with env:
            env.call_service["memory"].store_memory("s", "text")
            if options:  # a directory of its own goes before a registered service
                assert env.call_service["vdb_service"].collections() == []


def test_a_memory_that_a_function_makes_uses_services_that_are_registered_after_it() -> None:
    env = LocalEnvironment("function")
    env.register_service("memory_service", lambda: MemoryOrchestratorService(embedder=None))
    env.register_service("vdb_service", create_vdb_service_factory())
    env.register_service("kv_service", lambda: KVService())
    with env:
        env.call_service["memory_service"].store_memory("s", "text", [1.0])
        stats = env.call_service["memory_service"].stats()
        assert (stats["kv_service_name"], stats["vdb_service_name"]) == ("kv_service", "vdb_service")
        assert env.call_service["vdb_service"].collections() == ["memory"]


class OtherStore(BaseServiceTask):
    """A service of a user, which has the name and not the methods."""

    def get(self, key: str) -> str:
        return key


def test_a_service_of_that_name_with_other_methods_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    env = LocalEnvironment("other")
    env.register_service("memory", create_memory_service_factory(embedder=None))
    env.register_service("kv_service", OtherStore)
    with env:
        assert env.call_service["memory"].store_memory("s", "text")
        assert len(env.call_service["memory"].list_sessions()) == 1
    assert "does not use the service 'kv_service', which has no method put, delete" in caplog.text


class NeedsMemory(KVService):
    """A store that calls the memory service, which so cannot call it."""

    needs = ("memory",)


def test_services_that_would_use_each_other_start_in_the_order_that_is_needed() -> None:
    env = LocalEnvironment("circle")
    env.register_service("memory", create_memory_service_factory(embedder=None))
    env.register_service("kv_service", NeedsMemory)
    with env:
        assert env.call_service["memory"].store_memory("s", "text")


OTHER_WRITES = ("correct", "retire", "delete", "clear", "derive", "restore", "import", "lose", "put back", "drop")


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "shards"), [(250, 0), (120, 2)])
def test_sessions_are_those_of_the_collection_whatever_happened_to_either_store(
    steps: int, shards: int, tmp_path: Path
) -> None:
    rng = random.Random(12)
    with two_services(tmp_path if shards else None, shards) as (kv, one, other):
        ids: list[str] = []
        old: dict[str, Any] = {}
        for step in range(steps):
            memory = rng.choice((one, one, one, other))
            session, user = f"s{rng.randrange(4)}", rng.choice((None, None, "mei"))
            match rng.choice(("store",) * 9 + OTHER_WRITES):
                case "store":
                    ids.append(memory.store_memory(session, f"turn {step}", memory_type=rng.choice("ab"), user=user))
                case "correct" if ids:
                    correct(memory, rng.choice(ids), f"corrected {step}")
                case "retire" if ids:
                    memory.delete_memory(rng.choice(ids), hard=False)
                case "delete" if ids:
                    memory.delete_memory(rng.choice(ids))
                case "clear" if step % 3 == 0:
                    memory.clear_session(session, user=user)
                case "lose":
                    kv.clear("memory/")
                case "put back":  # the key-value service was restored from a copy
                    for key, entry in old.items():
                        kv.put(key, entry)
                case "derive" if ids:  # what a model made of a memory
                    engine_of(memory).writer.store_derived(SCOPE, session, "fact", f"fact {step}", [rng.choice(ids)])
                case "restore" if ids:
                    with suppress(NotFound):
                        memory.restore_memory(rng.choice(ids))
                case "import":
                    lines = memory.export_memories(limit=20)["lines"]
                    one.import_memories([line.replace('"session":"s1"', '"session":"s2"') for line in lines])
                case "drop" if step % 5 == 0:  # somebody dropped the collection
                    engine_of(memory).collection._vdb.drop("memory") if ids else None
                    ids.clear()
            if step % 40 == 0:
                old = {key: kv.get(key) for key in kv.list_keys("memory/")}
            if rng.random() < 0.7:
                check(rng.choice((one, other)), rng.choice((SCOPE, MemoryScope("default", "mei"))))


def correct(memory: MemoryOrchestratorService, id: str, content: str) -> None:
    for user in (None, "mei"):
        if (memory.history(id, user=user) if exists(memory, id, user) else []) and current(memory, id, user):
            memory.update_memory(id, content=content, user=user)


def exists(memory: MemoryOrchestratorService, id: str, user: str | None) -> bool:
    record = engine_of(memory).collection.get("default", id)
    return record is not None and record.scope.user == user


def current(memory: MemoryOrchestratorService, id: str, user: str | None) -> bool:
    record = engine_of(memory).collection.get("default", id)
    return record is not None and record.is_current(engine_of(memory).clock.now())


@pytest.mark.slow
def test_sessions_are_right_while_others_store_and_list() -> None:
    with two_services() as (_, one, other):
        failures: list[BaseException] = []

        def work(memory: Memories, number: int) -> None:
            try:
                for turn in range(25):
                    memory.store_memory(f"s{number % 3}", f"{number} says {turn}")
                    if turn % 4 == 0:
                        memory.list_sessions()
                        memory.get_session_memories(f"s{number % 3}")
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=work, args=((one, other)[n % 2], n)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        check(one)
        check(other)
        assert sum(session["memories"] for session in one.list_sessions()) == 150


def test_reading_sessions_again_reads_no_memory_and_a_store_does_not_change_that() -> None:
    with two_services() as (_, memory, _other):
        for turn in range(20):
            memory.store_memory(f"s{turn % 2}", f"turn {turn}")
        check(memory)
        rebuilt = memory.health()["sessions"]["rebuilt"]
        memory.store_memory("s0", "one more")
        memory.store_memory("new", "and a new session")
        memory.store_memory("s0", "of somebody else", user="mei")
        assert [(one["session_id"], one["memories"]) for one in memory.list_sessions()] == [
            ("new", 1), ("s0", 11), ("s1", 10)
        ]  # fmt: skip
        assert [one["content"] for one in memory.get_session_memories("s0")][-2:] == ["turn 18", "one more"]
        assert memory.health()["sessions"]["rebuilt"] == rebuilt


@pytest.mark.slow
def test_sessions_over_shards_are_read_again_only_after_a_write(tmp_path: Path) -> None:
    with two_services(tmp_path, 2) as (_, memory, _other):
        for turn in range(6):
            memory.store_memory(f"s{turn % 2}", f"turn {turn}", ttl=1000)
        check(memory)
        rebuilt = memory.health()["sessions"]["rebuilt"]
        check(memory)
        assert memory.health()["sessions"]["rebuilt"] == rebuilt
        memory.store_memory("s0", "one more")
        check(memory)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_expired_memories_leave_their_sessions_at_once() -> None:
    clock = Clock()
    with KVService() as kv, VDBService() as vdb, Memories(kv, vdb, clock=clock) as memory:
        memory.store_memory("s", "for long")
        memory.store_memory("s", "for a moment", ttl=10)
        memory.store_memory("gone", "for a moment, too", ttl=10)
        assert [(one["session_id"], one["memories"]) for one in memory.list_sessions()] == [("gone", 1), ("s", 2)]
        assert len(memory.get_session_memories("s")) == 2
        memory.store_memory("brief", "stored after they were read", ttl=5)
        assert len(memory.list_sessions()) == 3
        clock.now += 6
        assert [one["session_id"] for one in memory.list_sessions()] == ["gone", "s"]
        clock.now += 6
        assert [(one["session_id"], one["memories"]) for one in memory.list_sessions()] == [("s", 1)]
        assert [one["content"] for one in memory.get_session_memories("s")] == ["for long"]
        check(memory)


def test_a_cleared_session_leaves_nothing_in_the_key_value_service() -> None:
    with two_services() as (kv, memory, _):
        memory.store_memory("secret name", "text")
        check(memory)
        assert any("secret name" in str(kv.get(key)) for key in kv.list_keys("memory/"))
        memory.clear_session("secret name")
        assert not any("secret name" in str(kv.get(key)) for key in kv.list_keys("memory/"))


class Failing(KVService):
    """A key-value service that is out of order."""

    def get(self, *args: Any, **kwargs: Any) -> Any:
        raise Unavailable("out of order")

    put = get


def test_memories_are_stored_found_and_listed_without_the_key_value_service(caplog: pytest.LogCaptureFixture) -> None:
    with Failing() as kv, VDBService() as vdb, Memories(kv, vdb) as memory:
        id = memory.store_memory("s", "A text that is long enough to be remembered as recalled.")
        assert [one["id"] for one in memory.search_memories("text long")] == [id]
        check(memory)
        assert memory.health()["sessions"]["error"] == "Unavailable: out of order"
        assert caplog.text.count("sessions are read from the collection") == 1


def test_entries_of_others_under_its_keys_are_not_taken_for_sessions() -> None:
    with two_services() as (kv, memory, _):
        memory.store_memory("s", "text")
        check(memory)
        for key in kv.list_keys("memory/"):
            for nonsense in (None, 5, {}, {"format": 1, "revision": 7}, {**kv.get(key), "format": 99}):
                kv.put(key, nonsense)
                check(memory)


_KILLED = """
import os, signal, sys, tempfile
from pathlib import Path
import sage.middleware.retrieval.collection, sage.service.vdb.items, sage.service.vdb.retrieval_backend
from sage.service import KVService, VDBService
sys.path.insert(0, sys.argv[1])
from test_session_index import Memories, check

class Deadly:
    def __init__(self, service, countdown):
        self.service, self.countdown = service, countdown
    def __getattr__(self, name):
        method = getattr(self.service, name)
        def call(*args, **kwargs):
            self.count()
            result = method(*args, **kwargs)
            self.count()
            return result
        return call if name in ("put", "add", "delete") else method
    def count(self):
        self.countdown[0] -= 1
        if self.countdown[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def work(directory, countdown):
    with KVService("sqlite", persist_directory=str(directory)) as kv, \\
            VDBService(persist_directory=str(directory / "v")) as vdb, \\
            Memories(Deadly(kv, countdown), Deadly(vdb, countdown)) as memory:
        first = memory.store_memory("a", "one")
        memory.list_sessions(), memory.get_session_memories("a")
        memory.store_memory("b", "two"), memory.list_sessions(), memory.get_session_memories("a")
        memory.update_memory(first, content="one, corrected")
        memory.list_sessions(), memory.get_session_memories("a")
        memory.clear_session("b"), memory.list_sessions()

step, killed = 0, True
while killed:
    step += 1
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        child = os.fork()
        if child == 0:
            work(directory, [step])
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        child = os.fork()
        if child == 0:
            with KVService("sqlite", persist_directory=str(directory)) as kv, \\
                    VDBService(persist_directory=str(directory / "v")) as vdb, Memories(kv, vdb) as memory:
                check(memory)
                memory.store_memory("a", "after the crash")
                check(memory)
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, step
print(step)
"""


@pytest.mark.slow
def test_a_kill_at_any_step_between_the_two_stores_never_shows_wrong_sessions() -> None:
    result = subprocess.run(
        [sys.executable, "-c", _KILLED, str(Path(__file__).parent)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 20  # before and after each write
