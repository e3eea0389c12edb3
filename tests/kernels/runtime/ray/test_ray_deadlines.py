"""A deadline holds on Ray too: it is one moment for all processes, also for a call that is late in transport."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import pytest

from sage.errors import DeadlineExceeded
from sage.kernels.runtime.ray import deadlines
from sage.kernels.runtime.ray.actor import ServiceActor
from sage.kernels.runtime.ray.deadlines import CLOCK, RemoteClock, from_wire
from sage.kernels.runtime.ray.errors import unpacked
from sage.kernels.runtime.ray.messages import message_of
from sage.kernels.runtime.service.base_service_task import BaseServiceTask
from sage.kernels.runtime.services.calls import ServiceCall
from sage.kernels.runtime.services.spec import ServiceSpec

ELSEWHERE = "the clock of another machine"


class Writer(BaseServiceTask):
    """Writes into a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str) -> None:
        (self.directory / name).touch()

    async def write_soon(self, name: str) -> None:
        await asyncio.sleep(0)
        self.write(name)


class FixedClock:
    """A ``time`` whose clock stands still until it is set."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now


def actor_of(directory: Path) -> ServiceActor:
    """What runs in an actor, in this process."""
    return ServiceActor(ServiceSpec("writer", Writer, lambda: Writer(directory)), "namespace", "environment", 1)


def call_of_write(method: str, name: str, deadline: float, is_batch: bool) -> ServiceCall:
    args: Any = [(name,)] if is_batch else (name,)
    return ServiceCall(method, args, {}, ("writer",), deadline, is_batch=is_batch)


@pytest.mark.slow  # it imports Ray
@pytest.mark.parametrize("method", ["write", "write_soon"])
@pytest.mark.parametrize("is_batch", [False, True])
def test_a_call_that_was_in_transport_until_its_deadline_never_runs(
    tmp_path: Path, method: str, is_batch: bool
) -> None:
    actor, clock = actor_of(tmp_path), RemoteClock(CLOCK)
    try:
        deadline = time.monotonic() + 0.05
        messages = [
            message_of(number, call_of_write(method, "late", deadline, is_batch), clock) for number in (1, 2, 3)
        ]
        while time.monotonic() < deadline:  # they are in transport
            time.sleep(0.01)
        succeeded, error = actor.one(["caller", *messages[0]])  # type: ignore[misc]
        assert not succeeded
        assert isinstance(unpacked(error), DeadlineExceeded)
        _, replies = actor.exchange("caller", messages[1:])
        assert [(number, succeeded) for number, succeeded, _ in replies] == [(2, False), (3, False)]
        assert all(isinstance(unpacked(error), DeadlineExceeded) for _, _, error in replies)
        in_time = call_of_write(method, "in time", time.monotonic() + 20, is_batch)
        assert actor.one(["caller", *message_of(4, in_time, clock)]) == [[None] if is_batch else None]
        assert [path.name for path in tmp_path.iterdir()] == ["in time"]
    finally:
        actor.stop(5)


@pytest.mark.slow  # it imports Ray
def test_a_call_that_was_abandoned_before_it_arrived_never_runs(tmp_path: Path) -> None:
    actor = actor_of(tmp_path)
    try:
        actor.abandon("caller", [1, 2])
        (succeeded, _) = actor.one(["caller", 1, "write", ["first"]])  # type: ignore[misc]
        assert not succeeded
        _, ((_, succeeded, _),) = actor.exchange("caller", [[2, "write", ["second"]]])
        assert not succeeded
        assert actor.one(["caller", 3, "write", ["third"]]) == [None]
        assert [path.name for path in tmp_path.iterdir()] == ["third"]
    finally:
        actor.stop(5)


def test_a_deadline_is_the_same_moment_on_the_same_machine() -> None:
    deadline = time.monotonic() + 0.3
    sent = RemoteClock(CLOCK).to_wire(deadline)
    time.sleep(0.01)
    assert from_wire(sent) == deadline


def test_a_deadline_is_never_later_on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock is 5000 s ahead; its answer took 0.25 s, a later one 0.01 s."""
    here = FixedClock(100.0)
    monkeypatch.setattr(deadlines, "time", here)
    clock = RemoteClock(ELSEWHERE)
    clock.learn(99.5, ELSEWHERE, 5100.0 - 0.25)
    assert clock.to_wire(110.0) == [ELSEWHERE, 5109.75, 10.0]
    clock.learn(99.98, ELSEWHERE, 5100.0 - 0.01)
    assert clock.to_wire(110.0)[1] == pytest.approx(5109.99)
    clock.learn(96.0, ELSEWHERE, 5100.0 - 3.0)  # a slow answer makes nothing worse
    assert clock.to_wire(110.0)[1] == pytest.approx(5109.99)
    here.now += 50.0
    assert not clock.is_stale
    assert 5159.9 < clock.to_wire(160.0)[1] < 5159.99  # the clocks may have parted meanwhile
    clock.learn(149.9, ELSEWHERE, 5150.0)
    assert clock.to_wire(160.0)[1] == pytest.approx(5160.0)


def test_an_old_difference_of_clocks_refuses_no_call_that_is_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    here = FixedClock(100.0)
    monkeypatch.setattr(deadlines, "time", here)
    clock = RemoteClock(ELSEWHERE)
    assert clock.is_stale
    assert clock.to_wire(101.0) == [ELSEWHERE, math.inf, 1.0]
    clock.learn(100.0, ELSEWHERE, 5100.0)
    assert not clock.is_stale
    here.now += 86_400.0
    assert clock.is_stale
    assert clock.to_wire(here.now + 1.0) == [ELSEWHERE, math.inf, 1.0]


def test_a_machine_that_was_suspended_gives_no_call_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor's clock stood still for 30 s."""
    here = FixedClock(100.0)
    monkeypatch.setattr(deadlines, "time", here)
    clock = RemoteClock(ELSEWHERE)
    clock.learn(100.0, ELSEWHERE, 5100.0)
    here.now += 61.0
    clock.learn(160.9, ELSEWHERE, 5131.0)
    assert clock.to_wire(171.0)[1] == pytest.approx(5141.0)


def test_an_actor_that_moved_to_another_machine_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    here = FixedClock(100.0)
    monkeypatch.setattr(deadlines, "time", here)
    clock = RemoteClock(CLOCK)
    assert not clock.is_stale
    here.now += 61.0
    assert clock.is_stale
    clock.learn(161.0, ELSEWHERE, 5161.0)
    assert clock.to_wire(171.0) == [ELSEWHERE, 5171.0, 10.0]


def test_a_deadline_in_an_unknown_clock_is_counted_from_its_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "time", FixedClock(7.0))
    assert from_wire([ELSEWHERE, 5000.0, 3.0]) == 10.0
    assert from_wire([CLOCK, 50.0, 3.0]) == 10.0  # it never gains time
    assert from_wire([CLOCK, 9.0, 3.0]) == 9.0
    assert from_wire([CLOCK, math.inf, 3.0]) == 10.0
