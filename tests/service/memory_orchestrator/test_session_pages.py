"""Pages of sessions, and of a session, are those of the collection, whoever wrote and however."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest

from sage.service import MemoryOrchestratorService, VDBService


def pages(memory: MemoryOrchestratorService, size: int, **scope: Any) -> list[dict[str, Any]]:
    """All sessions, page by page."""
    found: list[dict[str, Any]] = []
    while page := memory.list_sessions(limit=size, after=found[-1]["session_id"] if found else None, **scope):
        found += page
    return found


def counted(contents: dict[str, list[str]]) -> dict[str, int]:
    return {name: len(set(of_session)) for name, of_session in sorted(contents.items()) if of_session}


@pytest.mark.parametrize("seed", range(3))
def test_pages_of_sessions_after_every_kind_of_write(seed: int) -> None:
    rng = random.Random(seed)
    said: dict[str, dict[str, list[str]]] = {"mei": {}, "tom": {}}
    with MemoryOrchestratorService(embedder="none") as memory:
        for step in range(60):
            user, session = rng.choice(["mei", "tom"]), f"s{rng.randrange(6)}"
            contents = said[user].setdefault(session, [])
            match rng.choice(["store", "store", "store", "correct", "delete", "clear"]):
                case "store":
                    contents.append(f"said {step}")
                    memory.store_memory(session, f"said {step}", user=user)
                case "correct" if contents:
                    (old,) = memory.get_session_memories(session, user=user, limit=1)
                    contents.remove(old["content"])
                    contents.append(f"corrected {step}")
                    memory.update_memory(old["id"], content=f"corrected {step}", user=user)
                case "delete" if contents:
                    (old,) = memory.get_session_memories(session, user=user, limit=1)
                    contents.remove(old["content"])
                    memory.delete_memory(old["id"], user=user)
                case "clear" if rng.random() < 0.3:
                    contents.clear()
                    memory.clear_session(session, user=user)
            for name in said:
                shown = pages(memory, 2, user=name)
                assert {one["session_id"]: one["memories"] for one in shown} == counted(said[name])
                assert [one["session_id"] for one in shown] == sorted(one["session_id"] for one in shown)
            of_session = memory.get_session_memories(session, user=user, limit=100)
            assert [one["content"] for one in of_session] == sorted(set(contents), key=contents.index)


def test_another_process_is_seen_at_once(tmp_path: Path) -> None:
    with (
        MemoryOrchestratorService(embedder="none", persist_directory=str(tmp_path)) as one,
        MemoryOrchestratorService(embedder="none", persist_directory=str(tmp_path)) as other,
    ):
        for step in range(12):
            (one if step % 3 else other).store_memory(f"s{step % 4}", f"said {step}")
            for memory in (one, other):
                shown = {found["session_id"]: found["memories"] for found in pages(memory, 3)}
                assert shown == {f"s{number}": (step - number) // 4 + 1 for number in range(min(step + 1, 4))}


@pytest.mark.slow
def test_pages_beside_writers_end_with_all_that_was_stored() -> None:
    with MemoryOrchestratorService(embedder="none") as memory:
        memory.store_memory("s0", "first")

        def write(writer: int) -> None:
            for number in range(25):
                memory.store_memory(f"s{number % 5}", f"{writer} said {number}")

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            counts = [one["memories"] for one in pages(memory, 2)]
            assert sum(counts) <= 101
        for thread in threads:
            thread.join()
        assert {one["session_id"]: one["memories"] for one in pages(memory, 2)} == {
            "s0": 21, "s1": 20, "s2": 20, "s3": 20, "s4": 20,
        }  # fmt: skip


@pytest.mark.slow
def test_pages_of_a_sharded_store(tmp_path: Path) -> None:
    with VDBService(persist_directory=str(tmp_path), shards=2) as sharded:
        memory = MemoryOrchestratorService(embedder="none")
        memory._vdb = lambda: sharded  # type: ignore[method-assign]
        with memory:
            for number in range(9):
                memory.store_memory(f"s{number % 3}", f"said {number}")
            assert [one["memories"] for one in pages(memory, 2)] == [3, 3, 3]
            first = memory.get_session_memories("s1", limit=2)
            rest = memory.get_session_memories("s1", limit=2, cursor=first[-1]["id"])
            assert [one["content"] for one in (*first, *rest)] == ["said 1", "said 4", "said 7"]
