"""Random interleavings of load, unload, request, cancel, crash, hang, idleness and eviction, in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from scripted_engine import Machine, ScriptedEngine
from virtual_time import VirtualLoop

from sage.errors import Unavailable
from sage.middleware.engines.health import RestartPolicy
from sage.middleware.engines.managed_model import ManagedModel, ModelLifeState
from sage.middleware.engines.memory_budget import MemoryBudget

SIZES = {"a": 4, "b": 5, "c": 6, "rock": 2}
BUDGET = 10
NAMES = st.sampled_from(sorted(SIZES))
SECONDS = st.sampled_from((0.0, 0.05, 0.3, 1.0, 3.0, 20.0))


class Life(RuleBasedStateMachine):
    """Four models that do not fit together, one of them pinned, and everything that can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.machine = Machine()
        self.memory = MemoryBudget(BUDGET, clock=self.loop.time)
        self.fails: set[str] = set()
        self.tasks: list[asyncio.Task[None]] = []
        self.inside: Counter[str] = Counter()
        self.models = {name: self.model(name, size) for name, size in SIZES.items()}

    def model(self, name: str, size: int) -> ManagedModel:
        def start() -> ScriptedEngine:
            return self.machine.engine(name, load=0.7, end=0.2, fails=name in self.fails)

        policy = RestartPolicy(first=0.5, longest=2.0)
        options = {"pinned": name == "rock", "memory": self.memory, "size": size, "patience": 60.0, "policy": policy}
        return ManagedModel(name, start, 5.0, clock=self.loop.time, **options)

    def begin(self, work) -> None:
        self.tasks.append(self.loop.create_task(work))

    async def use(self, name: str, seconds: float) -> None:
        async with self.models[name].lease():
            assert self.models[name].state is ModelLifeState.READY
            self.inside[name] += 1
            try:
                await asyncio.sleep(seconds)
            finally:
                self.inside[name] -= 1

    @rule(name=NAMES, seconds=SECONDS)
    def request(self, name: str, seconds: float) -> None:
        self.begin(self.use(name, seconds))

    @rule(name=NAMES)
    def load(self, name: str) -> None:
        self.begin(self.models[name].load())

    @rule(name=NAMES, drain=st.sampled_from((0.0, 1.0, 1000.0)))
    def unload(self, name: str, drain: float) -> None:
        self.begin(self.models[name].unload(drain))

    @rule(number=st.integers(0, 100))
    def cancel(self, number: int) -> None:
        if self.tasks:
            self.tasks[number % len(self.tasks)].cancel()

    @rule(name=NAMES)
    def crash(self, name: str) -> None:
        if self.models[name].state in (ModelLifeState.READY, ModelLifeState.DRAINING) and name in self.machine.running:
            self.machine.running[name].die()

    @rule(name=NAMES)
    def hang(self, name: str) -> None:
        if name in self.machine.running:
            self.machine.running[name].hangs = True

    @rule(name=NAMES)
    def break_or_mend(self, name: str) -> None:
        self.fails ^= {name}

    @rule(name=NAMES, keep_alive=st.sampled_from((0.1, 5.0, 1e9)), pinned=st.booleans())
    def keep_otherwise(self, name: str, keep_alive: float, pinned: bool) -> None:
        self.loop.run_until_complete(self._adjust(name, keep_alive, pinned and name == "rock"))

    async def _adjust(self, name: str, keep_alive: float, pinned: bool) -> None:
        self.models[name].adjust(keep_alive, pinned)

    @rule(turns=st.integers(1, 5))
    def go_on(self, turns: int) -> None:
        for _ in range(turns):
            self.loop.run_until_complete(asyncio.sleep(0))

    @rule(seconds=SECONDS)
    def let_time_pass(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @invariant()
    def one_process_a_model_within_the_budget(self) -> None:
        assert self.machine.faults == []
        assert sum(SIZES[name] for name in self.machine.running) <= self.memory.reserved <= BUDGET
        for name, model in self.models.items():
            assert model.in_flight >= self.inside[name]
            assert (model.engine is None) == (model.state in (ModelLifeState.UNLOADED, ModelLifeState.FAILED)) or (
                model.state in (ModelLifeState.LOADING, ModelLifeState.DRAINING)
            )
            assert (model.error is not None) >= (model.state is ModelLifeState.FAILED)
            assert model.loaded_at is None or model.state in (ModelLifeState.READY, ModelLifeState.DRAINING)

    def teardown(self) -> None:
        try:
            self.loop.run_until_complete(asyncio.wait_for(self._everything_ends(), 2000))
        finally:
            self.loop.close()

    async def _everything_ends(self) -> None:
        outcomes = await asyncio.gather(*self.tasks, return_exceptions=True)
        assert [o for o in outcomes if not isinstance(o, Unavailable | asyncio.CancelledError | None)] == []
        await asyncio.sleep(10)  # what was abandoned while it loaded has come or failed
        assert {name: model.in_flight for name, model in self.models.items()} == dict.fromkeys(SIZES, 0)
        self.fails.clear()
        for engine in self.machine.running.values():
            engine.hangs = False
        for name in SIZES:  # whatever happened, each can serve again
            await self._serves_again(name)
        self.one_process_a_model_within_the_budget()
        for model in self.models.values():
            await model.close()
        assert (self.machine.running, self.memory.reserved) == ({}, 0)
        assert self.memory.fits(BUDGET)
        await asyncio.sleep(100)
        assert self.machine.running == {}
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert [task.get_name() for task in left if not task.get_name().startswith("Task-")] == []

    async def _serves_again(self, name: str) -> None:
        for _ in range(5):
            try:
                await self.use(name, 0.1)
                return
            except Unavailable as exc:
                await asyncio.sleep(exc.retry_after or 1.0)
        pytest.fail(f"'{name}' does not come back: {self.models[name].error}")


@pytest.mark.slow
def test_any_interleaving_keeps_one_process_every_lease_and_the_budget() -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Life,
        settings=settings(stateful_step_count=60, deadline=None, suppress_health_check=checks),
    )
