"""Owners of a queue take turns: nobody is kept waiting by one who asks for much."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.fair_queue import FairQueue, TurnHistory

OWNERS = st.sampled_from("abc")


def popped(queue: FairQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def test_owners_take_turns_and_each_keeps_its_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.push(item[0], item)
    assert list(queue.in_turn()) == ["a1", "b1", "c1", "a2", "c2", "a3"]
    assert popped(queue) == ["a1", "b1", "c1", "a2", "c2", "a3"]
    with pytest.raises(IndexError):
        queue.pop()


def test_a_newcomer_comes_before_those_who_had_a_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3"):
        queue.push("a", item)
    assert queue.pop() == "a1"
    queue.push("b", "b1")
    assert queue.pop() == "b1"
    queue.push("b", "b2")  # who always has one more waiting gets every second turn, not every one
    assert popped(queue) == ["a2", "b2", "a3"]


def test_a_turn_without_a_wait_counts() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.record_turn("a")
    queue.push("a", "a1")
    queue.push("b", "b1")
    assert popped(queue) == ["b1", "a1"]


def test_the_longest_owner_gives_up_its_newest() -> None:
    queue: FairQueue[str] = FairQueue()
    assert queue.make_room("a") is None
    for item in ("b1", "a1", "a2"):
        queue.push(item[0], item)
    assert queue.make_room("b") is None  # which would have as many as "a" then
    assert queue.make_room("c", lambda item: item != "a2") is None
    assert queue.make_room("c") == "a2"
    assert not queue.remove("a", "a2")
    assert (queue.make_room("c"), len(queue)) == (None, 2)
    assert queue.clear() == ["b1", "a1"]
    assert (len(queue), list(queue.in_turn())) == (0, [])


def test_the_members_of_an_owner_take_its_turns_in_turn() -> None:
    queue: FairQueue[str] = FairQueue(lambda item: item[1])
    for item in ("ax1", "ax2", "ax3", "ay1", "bz1", "bz2"):
        queue.push(item[0], item)
    assert list(queue.in_turn()) == ["ax1", "bz1", "ay1", "bz2", "ax2", "ax3"]
    assert [queue.pop() for _ in range(3)] == ["ax1", "bz1", "ay1"]
    queue.push("a", "ay2")
    assert popped(queue) == ["bz2", "ax2", "ay2", "ax3"]


def test_what_it_remembers_is_bounded() -> None:
    history = TurnHistory()
    for owner in range(5000):
        history.record(owner)
    assert history.last(4999) > history.last(4500) > 0
    assert sum(history.last(owner) > 0 for owner in range(5000)) == 1024


@given(steps=st.lists(st.tuples(st.sampled_from(["push", "pop"]), OWNERS), max_size=60))
def test_no_waiting_owner_is_passed_over_twice(steps: list[tuple[str, str]]) -> None:
    """While an owner waits, no other owner has more than one turn; each owner keeps its order."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    waiting: dict[str, list[int]] = defaultdict(list)
    passed: dict[str, list[str]] = {}
    for number, (step, owner) in enumerate(steps):
        if step == "push":
            if not waiting[owner]:
                passed[owner] = []
            waiting[owner].append(number)
            queue.push(owner, (owner, number))
        elif queue:
            owner, item = queue.pop()
            assert waiting[owner].pop(0) == item
            passed[owner] = []
            for other, turns in passed.items():
                if other != owner and waiting[other]:
                    turns.append(owner)
                    assert turns.count(owner) == 1
    assert len(queue) == sum(map(len, waiting.values()))
