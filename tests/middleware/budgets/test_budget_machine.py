"""Whatever calls, processes, kills and time do: no budget is overdrawn, nothing is counted twice or lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from budget_fixtures import Clock, budget, make_budgets, reserve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sage.errors import RateLimited
from sage.middleware.budgets.budgets import Budgets
from sage.middleware.budgets.periods import period_at
from sage.middleware.budgets.reservation import Reservation
from sage.middleware.budgets.spending import Counted, WindowKey
from sage.middleware.settings.budgets import BudgetWindow

WINDOWS: dict[str, BudgetWindow] = {"user:ann": "day", "tenant:acme": "total"}
AMOUNTS = {"user:ann": 100, "tenant:acme": 400}
FULL = bool(os.environ.get("SAGE_TEST_FULL"))


@dataclass
class Call:
    """A call that runs: what it has reserved, and in which windows."""

    reservation: Reservation
    need: int
    windows: tuple[WindowKey, ...]


@dataclass
class Process:
    """What a test knows of a process: its calls, and what it has settled without booking it."""

    budgets: Budgets
    calls: list[Call] = field(default_factory=list)
    unbooked: Counter[WindowKey] = field(default_factory=Counter)


class BudgetMachine(RuleBasedStateMachine):
    """Two processes on one database."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="budgets-"))
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.booked: Counter[WindowKey] = Counter()
        self.dead: list[Process] = []
        self.processes = [self.start(), self.start()]

    def start(self) -> Process:
        budgets = make_budgets(self.directory, self.clock)
        for subject, window in WINDOWS.items():
            budgets.store.put(subject, budget(tokens=AMOUNTS[subject], window=window))
        self.loop.run_until_complete(budgets.upkeep.refresh())
        return Process(budgets)

    def windows(self) -> tuple[WindowKey, ...]:
        return tuple(
            WindowKey(subject, "tokens", period_at(window, self.clock.now).name) for subject, window in WINDOWS.items()
        )

    def held(self, key: WindowKey) -> int:
        """What is spent of a window, and reserved by calls that run."""
        everyone = [*self.processes, *self.dead]
        running = sum(call.need for process in everyone for call in process.calls if key in call.windows)
        return self.booked[key] + sum(process.unbooked[key] for process in everyone) + running

    @rule(index=st.integers(0, 1), need=st.integers(0, 60), count=st.integers(1, 5))
    def ask(self, index: int, need: int, count: int) -> None:
        """Several calls at once."""
        process, windows = self.processes[index], self.windows()
        before = {key: self.held(key) for key in windows}

        async def all_of_them() -> list[Reservation | BaseException]:
            asking = (reserve(process.budgets, tokens=need) for _ in range(count))
            return await asyncio.gather(*asking, return_exceptions=True)

        for outcome in self.loop.run_until_complete(all_of_them()):
            if isinstance(outcome, Reservation):
                process.calls.append(Call(outcome, need, windows))
            else:
                assert isinstance(outcome, RateLimited)
        for key in windows:
            assert self.held(key) <= max(AMOUNTS[key.subject], before[key])

    @precondition(lambda self: any(process.calls for process in self.processes))
    @rule(data=st.data())
    def end_call(self, data: st.DataObject) -> None:
        process = data.draw(st.sampled_from([each for each in self.processes if each.calls]))
        call = process.calls.pop(data.draw(st.integers(0, len(process.calls) - 1)))
        used = data.draw(st.integers(0, call.need))
        call.reservation.settle(None, used, "gpt")
        for key in call.windows:
            process.unbooked[key] += used

    @rule(index=st.integers(0, 1))
    def book(self, index: int) -> None:
        process = self.processes[index]
        self.loop.run_until_complete(process.budgets.upkeep.settle())
        self.booked += process.unbooked
        process.unbooked.clear()

    @rule(hours=st.sampled_from([0, 0, 1, 11, 24]))
    def pass_time(self, hours: int) -> None:
        self.clock.now += hours * 3600 + 1

    @rule(index=st.integers(0, 1))
    def kill(self, index: int) -> None:
        """What it has not booked is lost; what it held comes back once nobody has heard of it for half a minute."""
        process = self.processes[index]
        process.unbooked.clear()
        self.dead.append(process)
        self.processes[index] = self.start()

    @rule()
    def wait_for_the_dead(self) -> None:
        """More than half a minute, in which the living go on."""
        for _ in range(10):
            self.clock.now += 4
            for index, process in enumerate(self.processes):
                for _ in range(2):
                    self.loop.run_until_complete(process.budgets.upkeep.round())
                self.booked += process.unbooked
                process.unbooked.clear()
                assert self.processes[index] is process
        for process in self.dead:
            process.calls.clear()
            process.budgets.close()
        self.dead.clear()

    @precondition(lambda self: not self.dead)
    @rule(index=st.integers(0, 1))
    def use_up(self, index: int) -> None:
        """When all processes have given back what is idle, the very rest can be had, and not one token more."""
        for _ in range(4):
            for each in range(2):
                self.book(each)
        process, windows = self.processes[index], self.windows()
        rest = min(AMOUNTS[key.subject] - self.held(key) for key in windows)
        if rest < 0:
            return
        with pytest.raises(RateLimited):
            self.loop.run_until_complete(reserve(process.budgets, tokens=rest + 1))
        reservation = self.loop.run_until_complete(reserve(process.budgets, tokens=rest))
        process.calls.append(Call(reservation, rest, windows))

    @invariant()
    def what_is_booked_is_counted(self) -> None:
        keys = list(self.booked)
        counts = self.processes[0].budgets._counters.counts(keys)
        assert {key: counts.get(key, Counted(0, 0)).settled for key in keys} == dict(self.booked)

    def teardown(self) -> None:
        keys = {*self.booked, *self.windows()}
        for process in self.processes:
            for call in process.calls:
                keys.update(call.windows)
                call.reservation.cancel()
            self.loop.run_until_complete(process.budgets.upkeep.end())
            self.booked += process.unbooked
        if not self.dead:
            counts = self.processes[0].budgets._counters.counts(sorted(keys))
            for key in keys:
                assert counts.get(key, Counted(0, 0)) == Counted(self.booked[key], 0)
        for process in [*self.processes, *self.dead]:
            process.budgets.close()
        self.loop.close()
        shutil.rmtree(self.directory)


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(max_examples=200 if FULL else 6, stateful_step_count=25, deadline=None)
TestBudgetMachine.pytestmark = [pytest.mark.slow]
