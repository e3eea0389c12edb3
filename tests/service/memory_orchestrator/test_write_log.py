"""The log of new memories under every order of steps: what it says happened is what happened, or it says nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from sage.service.memory_orchestrator.index.write_log import AddedMemory, CollectionRevision, WriteLog


class Simulation:
    """A collection as the list of its commits, each by this process (its number) or by another one (``None``)."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.log = WriteLog()
        self.commits: list[int | None] = []
        self.stamps: list[tuple[CollectionRevision, bool]] = []
        self.answers = 0

    def revision(self) -> CollectionRevision:
        return CollectionRevision("c", len(self.commits))

    def store(self) -> Iterator[None]:
        life = self.log.begin()
        yield
        number = len(self.commits)
        self.commits.append(number)
        if self.rng.random() < 0.03:
            self.commits.append(None)  # it replaced an expired one: two rows
        yield
        self.log.add(life, AddedMemory(("t", "", ""), "s", str(number), "turn", 0.0, 1.0, False))

    def write_elsewhere(self) -> Iterator[None]:
        self.commits.append(None)
        yield

    def read_elsewhere(self) -> Iterator[None]:
        self.stamps.append((self.revision(), False))
        yield

    def read(self) -> Iterator[None]:
        mark = self.log.mark()
        yield
        current = self.revision()
        yield
        if self.stamps:
            stamp, ours = self.rng.choice(self.stamps[-6:])
            new = self.log.since(stamp, mark, current, ours=ours)
            if new is not None and stamp.sequence <= current.sequence:
                happened = self.commits[stamp.sequence : current.sequence]
                assert sorted(int(one.id) for one in new) == happened
                self.answers += len(new) > 0
                self.stamps.append((current, True))
                return
        yield from self.rebuild()

    def rebuild(self) -> Iterator[None]:
        before = self.revision()
        yield
        mark = self.log.mark()
        yield
        if self.revision() == before:
            yield
            self.log.settle(mark, before)
            self.stamps.append((before, True))


@pytest.mark.parametrize("seed", range(5))
def test_no_order_of_steps_makes_it_say_what_did_not_happen(seed: int) -> None:
    rng = random.Random(seed)
    simulation = Simulation(rng)
    kinds = (
        [simulation.store] * 5
        + [simulation.read] * 4
        + [simulation.read_elsewhere]
        + [simulation.write_elsewhere] * (seed % 2)
    )
    running: list[Iterator[None]] = []
    for _ in range(3000):
        if len(running) < rng.choice((1, 1, 2, 4)):
            running.append(rng.choice(kinds)())
        chosen = rng.choice(running)
        if next(chosen, True):
            running.remove(chosen)
    assert simulation.answers > 10
