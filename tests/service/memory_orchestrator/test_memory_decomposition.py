"""A model parts a question; its parts are searched for beside the question."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sage.errors import InvalidRequest, Unavailable
from sage.service import MemoryOrchestratorService

QUESTION = "Which instrument does the sister of the baker in Lyon play?"


class Model:
    def __init__(self, answer: str | Exception) -> None:
        self.answer = answer
        self.prompts: list[str] = []

    def __call__(self, model: str, messages: list[dict[str, str]]) -> str:
        assert model == "small"
        self.prompts.append(messages[0]["content"])
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@contextmanager
def filled(generate: Callable[..., str]) -> Iterator[MemoryOrchestratorService]:
    with MemoryOrchestratorService(embedder="none", questions_model="small", generate=generate) as memory:
        memory.store_memory("s1", "Jo has a bakery in Lyon")
        memory.store_memory("s2", "Ida, Jo's sibling, was on stage with a cello")
        for number in range(8):
            memory.store_memory(f"n{number}", f"the sister of number {number} is in Lyon to play")
        yield memory


def contents(results: list[dict[str, Any]]) -> list[str]:
    return [result["content"] for result in results]


def test_parts_find_what_the_question_does_not() -> None:
    model = Model("1. Who has a bakery in Lyon?\n- Who is the sibling of Jo?\n\n- Who is the sibling of Jo?\n")
    with filled(model) as memory:
        plain = contents(memory.search_memories(QUESTION, limit=4))
        results = memory.search_memories(QUESTION, limit=4, decompose=True)
        scores = [result["score"] for result in results]
        assert "Ida, Jo's sibling, was on stage with a cello" not in plain
        assert {"Jo has a bakery in Lyon", "Ida, Jo's sibling, was on stage with a cello"} <= set(contents(results))
        assert len(set(contents(results))) == 4
        assert scores == sorted(scores, reverse=True)
    assert len(model.prompts) == 1
    assert QUESTION in model.prompts[0]


@pytest.mark.parametrize("answer", ["NONE", "None.", "", QUESTION, Unavailable("down"), RuntimeError("its own")])
def test_without_parts_the_question_is_searched_for_as_it_is(answer: str | Exception) -> None:
    with filled(Model(answer)) as memory:
        plain = memory.search_memories(QUESTION)
        assert memory.search_memories(QUESTION, decompose=True) == plain


def test_at_most_four_parts_are_searched_for() -> None:
    with filled(Model("\n".join(f"cello {number}?" for number in range(3000)))) as memory:
        assert len(memory.search_memories(QUESTION, limit=10, decompose=True)) == 10


def test_it_needs_a_model_and_a_question() -> None:
    with MemoryOrchestratorService(embedder="none") as memory:
        with pytest.raises(InvalidRequest, match=r"services\.memory\.questions_model"):
            memory.search_memories("who?", decompose=True)
        with pytest.raises(InvalidRequest, match="'decompose' is true or false"):
            memory.search_memories(vector=[1.0], decompose=True)
    with pytest.raises(InvalidRequest, match="give that, too"):
        MemoryOrchestratorService(questions_model="small")
