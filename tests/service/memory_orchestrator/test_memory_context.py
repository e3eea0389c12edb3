"""What stands around a turn helps to find it: its date, the turn after it, its session, and who said it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sage.service import MemoryOrchestratorService
from sage.service.memory_orchestrator.context.dates import date_words
from sage.service.memory_orchestrator.context.speakers import named_speaker

MAY_18, DAY = 1_684_411_200.0, 86400.0


class Calendar:
    def __init__(self) -> None:
        self.time = MAY_18

    def __call__(self) -> float:
        return self.time


def letters(texts: list[str]) -> NDArray[np.float32]:
    return np.array([[text.lower().count(letter) + 0.01 for letter in "abcdefgh"] for text in texts], np.float32)


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture(params=["none", "letters"])
def memory(request: pytest.FixtureRequest, calendar: Calendar) -> Iterator[MemoryOrchestratorService]:
    embedder: Any = letters if request.param == "letters" else "none"
    with MemoryOrchestratorService(embedder=embedder, clock=calendar) as service:
        yield service


def contents(results: list[dict[str, Any]]) -> list[str]:
    return [result["content"] for result in results]


def test_a_turn_is_found_by_its_date(memory: MemoryOrchestratorService, calendar: Calendar) -> None:
    for number in range(6):
        calendar.time = MAY_18 + number * 40 * DAY
        memory.store_memory(f"s{number}", f"note {'abcdef'[number]}")
    best, *_ = memory.search_memories("what happened in August 2023?", explain=True)
    assert best["content"] == "note c"
    assert best["created_at"] == MAY_18 + 80 * DAY


@pytest.mark.parametrize(
    ("time", "content", "words"),
    [
        (MAY_18, "a note", "18 May 2023"),
        (MAY_18 + DAY - 0.01, "今天下雨", "2023年5月19日"),
        (0.0, "", "1 January 1970"),
        (-1.0, "", "31 December 1969"),
        (1e18, "", ""),
        (float("inf"), "", ""),
    ],
)
def test_dates_are_written_as_questions_name_them(time: float, content: str, words: str) -> None:
    assert date_words(time, content) == words


def test_words_of_the_next_turn_count(memory: MemoryOrchestratorService) -> None:
    turns = ["we saw them in Greece", "you mean the pelicans of Prespa?", "who else", "nobody", "good night"]
    for turn in turns:
        memory.store_memory("trip", turn)
    for number in range(20):
        memory.store_memory(f"other{number}", f"nothing of number {number}")
    results = memory.search_memories("Which pelicans of Prespa in Greece?", limit=5, explain=True)
    parts = {result["content"]: result["explanation"] for result in results}
    assert parts["we saw them in Greece"]["next_turn"] == pytest.approx(1.0, abs=0.2)
    assert parts["you mean the pelicans of Prespa?"]["next_turn"] < 1.0


def test_a_turn_of_the_session_that_is_about_it_goes_first(memory: MemoryOrchestratorService) -> None:
    for turn in ("the boat is in Volos", "nice harbour", "sails and masts", "the engine of the boat", "it was dear"):
        memory.store_memory("boat", turn)
    for turn in ("rain again", "soup for dinner", "the cat sleeps", "cold feet", "it was dear"):
        memory.store_memory("home", turn)
    results = memory.search_memories("was the boat with its engine in Volos dear?", limit=10, explain=True)
    dear = [result for result in results if result["content"] == "it was dear"]
    assert [result["session_id"] for result in dear] == ["boat", "home"]
    assert [result["explanation"]["session"] for result in dear] == [1.0, pytest.approx(0.2, abs=0.2)]


def test_the_speaker_whom_the_question_names_goes_first(memory: MemoryOrchestratorService) -> None:
    for number, speaker in enumerate(("Ann Lee", "Ben", "Ann Lee", "Ben")):
        memory.store_memory(f"s{number}", f"I sing in choir {'wxyz'[number]}", metadata={"speaker": speaker})
    first = [result["metadata"]["speaker"] for result in memory.search_memories("Which choir does Ben sing in?")]
    assert first == ["Ben", "Ben", "Ann Lee", "Ann Lee"]
    first = [result["metadata"]["speaker"] for result in memory.search_memories("Which choir does ann sing in?")]
    assert first == ["Ann Lee", "Ann Lee", "Ben", "Ben"]
    both = memory.search_memories("Do Ann and Ben sing in a choir?", explain=True)
    assert {result["explanation"]["speaker"] for result in both} == {0.0}


@pytest.mark.parametrize(
    ("question", "speakers", "named"),
    [
        ("When did Melanie paint?", ["Melanie", "Caroline"], "Melanie"),
        ("when did melanie paint?", ["Melanie", "Caroline"], "Melanie"),
        ("When will Ann come?", ["Will", "Ann"], "Ann"),
        ("When did Will come?", ["Will", "Ann"], "Will"),
        ("What did Ann tell Will?", ["Will", "Ann"], None),
        ("Where is Annapolis?", ["Ann"], None),
        ("小明去了哪里?", ["小明", "小红"], "小明"),
        ("What did the assistant say?", ["user", "assistant"], "assistant"),
        ("What about a car?", ["A", "B"], None),
        ("Nobody?", [], None),
    ],
)
def test_a_question_names_one_speaker_or_none(question: str, speakers: list[str], named: str | None) -> None:
    assert named_speaker(question, speakers) == named


def test_another_users_session_of_the_same_name_tells_nothing(memory: MemoryOrchestratorService) -> None:
    for turn in ("tea", "a walk"):
        memory.store_memory("day", turn, user="mei")
        memory.store_memory("night", f"{turn} later", user="mei")
    alone = memory.search_memories("tea on a walk", user="mei", explain=True)
    for number in range(5):
        memory.store_memory("night", f"no match {number}", user="tom")
        memory.store_memory("night", "tea tea tea on a walk " * (number + 1), user="tom")
    beside = memory.search_memories("tea on a walk", user="mei", explain=True)

    def sessions(results: list[dict[str, Any]]) -> dict[str, float]:
        return {result["content"]: result["explanation"]["session"] for result in results}

    assert {name for name, share in sessions(alone).items() if share == 1.0} == {
        name for name, share in sessions(beside).items() if share == 1.0
    }


def test_scores_are_0_to_1_in_order_and_more_results_begin_with_fewer(memory: MemoryOrchestratorService) -> None:
    for number in range(80):
        content = f"turn {number} of {'abcdefgh'[number % 8]} and tea"
        memory.store_memory(f"s{number % 7}", content, metadata={"speaker": "Ann"})
    results = memory.search_memories("Which tea did Ann have in turn 7?", limit=40)
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 <= score <= 1.0 for score in scores)
    fewer = memory.search_memories("Which tea did Ann have in turn 7?", limit=5)
    assert contents(fewer) == contents(results)[:5]
