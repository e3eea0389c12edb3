"""A memory may bring the time at which it was said: its place, its date and ``as_of`` go by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sage.errors import InvalidRequest
from sage.service import MemoryOrchestratorService

MAY_18, DAY = 1_684_411_200.0, 86400.0
NOW = MAY_18 + 400 * DAY


@pytest.fixture
def memory() -> Iterator[MemoryOrchestratorService]:
    with MemoryOrchestratorService(embedder="none", clock=lambda: NOW) as service:
        yield service


def session(memory: MemoryOrchestratorService, name: str, **page: Any) -> list[str]:
    return [turn["content"] for turn in memory.get_session_memories(name, **page)]


def test_an_imported_chat_is_found_by_its_dates_and_kept_in_its_order(memory: MemoryOrchestratorService) -> None:
    for day, turns in ((0, ("a walk", "in the rain", "with the dog")), (30, ("tea", "and cake"))):
        for turn in turns:  # one time for all turns of a day, as many chats have it
            memory.store_memory("chat", turn, created_at=MAY_18 + day * DAY)
    memory.store_memory("chat", "today")
    assert session(memory, "chat") == ["a walk", "in the rain", "with the dog", "tea", "and cake", "today"]
    times = [turn["created_at"] for turn in memory.get_session_memories("chat")]
    assert [round(time - MAY_18) for time in times] == [0, 0, 0, 30 * DAY, 30 * DAY, 400 * DAY]
    (summary,) = memory.list_sessions()
    assert (summary["memories"], summary["first_at"]) == (6, MAY_18)
    assert summary["last_at"] == pytest.approx(NOW, abs=1)
    best, *_ = memory.search_memories("what was in June 2023?")
    assert best["content"] in ("tea", "and cake")
    pages, cursor = [], None
    while page := memory.get_session_memories("chat", limit=2, cursor=cursor):
        pages += [turn["content"] for turn in page]
        cursor = page[-1]["id"]
    assert pages == session(memory, "chat")


def test_what_was_said_before_gets_the_words_of_the_turns_before_it(memory: MemoryOrchestratorService) -> None:
    memory.store_memory("s", "first elephants", created_at=MAY_18)
    memory.store_memory("s", "last giraffes", created_at=MAY_18 + 9 * DAY)
    memory.store_memory("s", "between them", created_at=MAY_18 + DAY)
    memory.store_memory("s", "behind them", created_at=MAY_18 + 10 * DAY)
    assert session(memory, "s") == ["first elephants", "between them", "last giraffes", "behind them"]
    found = {word: {hit["content"] for hit in memory.search_memories(word)} for word in ("elephants", "giraffes")}
    assert "between them" in found["elephants"]
    assert "between them" not in found["giraffes"]
    assert "behind them" in found["giraffes"]


def test_the_past_knows_what_was_said_in_it(memory: MemoryOrchestratorService) -> None:
    memory.store_memory("s", "we moved to Lyon", created_at=MAY_18)
    memory.store_memory("s", "we moved to Basel", created_at=MAY_18 + 100 * DAY, ttl=DAY)
    then = memory.search_memories("moved", as_of=MAY_18 + 50 * DAY)
    assert [hit["content"] for hit in then] == ["we moved to Lyon"]
    (basel,) = [turn for turn in memory.get_session_memories("s") if "Basel" in turn["content"]]
    assert basel["expires_at"] == pytest.approx(NOW + DAY, abs=1)  # a time to live begins when it is stored


@pytest.mark.parametrize("given", [NOW + 120, NOW * 1000, -1, float("nan"), True, "2023-05-18"])
def test_a_time_that_is_none_is_refused(memory: MemoryOrchestratorService, given: Any) -> None:
    with pytest.raises(InvalidRequest, match="'created_at' must be a time in Unix seconds"):
        memory.store_memory("s", "a note", created_at=given)
    assert memory.list_sessions() == []


def test_a_clock_that_is_a_little_ahead_and_a_correction(memory: MemoryOrchestratorService) -> None:
    id = memory.store_memory("s", "a note", created_at=NOW + 30)
    assert memory.get_session_memories("s")[0]["created_at"] == NOW
    with pytest.raises(InvalidRequest, match="supersedes"):
        memory.store_memory("s", "another note", supersedes=id, created_at=MAY_18)
