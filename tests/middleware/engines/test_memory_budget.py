"""The memory budget: who may load, who leaves for it, who waits; and that two models that do not fit take turns."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import Machine
from virtual_time import run

from sage.errors import Unavailable
from sage.middleware.engines.managed_model import ManagedModel, ModelLifeState
from sage.middleware.engines.memory_budget import EvictionCandidate, MemoryBudget, Turns, plan, show_bytes
from sage.middleware.engines.proc_stats import proportional_memory

TURNS = Turns()
NOW = 1000.0


def loaded(name: str, size: int, *, idle: float = 100.0, left: float = -1.0, **more: bool) -> EvictionCandidate:
    """One that has been idle for ``idle`` seconds and whose turn has ``left`` seconds to go."""
    return EvictionCandidate(name, size, last_used=NOW - idle, turn_ends=NOW + left, **more)


def decided(budget: int, wanted: int, *candidates: EvictionCandidate) -> tuple[bool, list[str], float | None]:
    step = plan(budget, candidates, wanted, NOW, TURNS)
    return step.admit, [candidate.name for candidate in step.evict], step.look_again_at


def test_what_fits_is_admitted_and_nobody_leaves() -> None:
    assert decided(10, 4, loaded("a", 6)) == (True, [], None)
    assert decided(10, 0) == (True, [], None)


def test_the_longest_idle_leaves_first_and_no_more_than_are_needed() -> None:
    models = loaded("new", 4, idle=1), loaded("old", 4, idle=50), loaded("middle", 2, idle=9)
    assert decided(10, 4, *models) == (False, ["old"], None)
    assert decided(10, 6, *models) == (False, ["old", "middle"], None)
    assert decided(10, 9, *models) == (False, ["old", "middle", "new"], None)


def test_an_idle_one_leaves_before_a_busy_one_whose_turn_is_over() -> None:
    assert decided(10, 4, loaded("busy", 5, busy=True), loaded("idle", 5, idle=1)) == (False, ["idle"], None)
    assert decided(10, 4, loaded("busy", 10, busy=True)) == (False, ["busy"], None)


def test_a_turn_is_kept_until_it_ends_or_the_model_has_been_idle_for_a_moment() -> None:
    assert decided(10, 4, loaded("busy", 10, busy=True, left=3)) == (False, [], NOW + 3)
    assert decided(10, 4, loaded("fresh", 10, idle=0.2, left=3)) == (False, [], NOW - 0.2 + 0.5)
    assert decided(10, 4, loaded("rests", 10, idle=0.5, left=3)) == (False, ["rests"], None)
    assert decided(10, 4, loaded("over", 10, idle=0.2, left=-1)) == (False, ["over"], None)


def test_pinned_and_loading_ones_are_held_and_leaving_ones_are_waited_for() -> None:
    assert decided(10, 4, loaded("held", 10, protected=True)) == (False, [], None)
    assert decided(10, 4, loaded("leaving", 5, leaving=True), loaded("other", 5)) == (False, [], None)
    assert decided(10, 7, loaded("leaving", 5, leaving=True), loaded("other", 5)) == (False, ["other"], None)


def test_nobody_leaves_for_a_room_that_is_too_small_all_the_same() -> None:
    assert decided(10, 8, loaded("idle", 5), loaded("busy", 5, busy=True, left=7)) == (False, [], NOW + 7)


def test_what_is_taken_beyond_the_budget_is_freed() -> None:
    assert decided(10, 0, loaded("grown", 8, busy=True, left=9), loaded("idle", 4)) == (False, ["idle"], None)


@given(
    st.integers(1, 50),
    st.integers(0, 50),
    st.lists(
        st.builds(
            EvictionCandidate,
            st.text("ab", min_size=1, max_size=3),
            st.integers(0, 20),
            protected=st.booleans(),
            leaving=st.booleans(),
            busy=st.booleans(),
            last_used=st.floats(900, 1000),
            turn_ends=st.floats(990, 1060),
        ),
        max_size=6,
    ),
)
def test_a_plan_makes_room_enough_or_changes_nothing(
    budget: int, wanted: int, candidates: list[EvictionCandidate]
) -> None:
    step = plan(budget, candidates, wanted, NOW, TURNS)
    free = budget - sum(s.size for s in candidates)
    coming = sum(s.size for s in candidates if s.leaving)
    assert step.admit == (free >= wanted)
    assert not any(s.protected or s.leaving for s in step.evict)
    if step.evict:
        assert free + coming < wanted <= free + coming + sum(s.size for s in step.evict)
        assert all(s.turn_ends <= NOW or (not s.busy and s.last_used + TURNS.linger <= NOW) for s in step.evict)
    assert step.look_again_at is None or step.look_again_at > NOW
    able = [s for s in candidates if not s.protected and not s.leaving]
    if not step.admit and wanted <= free + coming + sum(s.size for s in able) and free + coming < wanted:
        assert step.evict or step.look_again_at is not None, "it is possible, so it happens now or in time"


def test_a_turn_lasts_a_few_loads_within_bounds() -> None:
    assert [TURNS.length(load) for load in (0.0, 0.1, 1.0, 5.0, 100.0)] == [2, 2, 5, 25, 60]


def test_sizes_read_well() -> None:
    assert [show_bytes(n) for n in (5, 2048, 3 * 2**20, 5 * 2**29)] == ["5 bytes", "2.0 KiB", "3.0 MiB", "2.5 GiB"]


def test_memory_is_measured_over_all_processes_and_none_is_none() -> None:
    import os

    own = proportional_memory((os.getpid(),))
    assert own is not None
    assert own > 5 * 2**20
    assert proportional_memory(()) is None
    assert proportional_memory((2**22 + 1,)) is None


# With models


class Bench:
    """Models of one memory, on one machine."""

    def __init__(self, budget: int | None, **turns: float) -> None:
        loop = asyncio.get_running_loop()
        self.clock = loop.time
        self.machine = Machine()
        self.memory = MemoryBudget(budget, turns=Turns(**turns), clock=loop.time)

    def model(self, name: str, size: int | None, *, load: float = 1.0, **options) -> ManagedModel:
        def start():
            return self.machine.engine(name, load=load)

        return ManagedModel(name, start, memory=self.memory, size=size, clock=self.clock, **options)


async def use(model: ManagedModel, seconds: float = 0.1) -> None:
    async with model.lease():
        await asyncio.sleep(seconds)


def test_an_idle_model_makes_room_for_another_and_comes_back() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        a, b = bench.model("a", 6), bench.model("b", 6)
        await use(a)
        await use(b)
        assert (a.state, b.state, bench.memory.reserved) == (ModelLifeState.UNLOADED, ModelLifeState.READY, 6)
        assert a.error is None
        await use(a)
        assert (a.state, b.state) == (ModelLifeState.READY, ModelLifeState.UNLOADED)
        assert bench.machine.started == ["a", "b", "a"]

    run(scenario())


def test_models_that_fit_stay() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        a, b, c = bench.model("a", 4), bench.model("b", 4), bench.model("c", 4)
        await use(a)
        await use(b)
        await use(a)
        await use(c)  # b has been idle for longer
        assert [m.state for m in (a, b, c)] == [ModelLifeState.READY, ModelLifeState.UNLOADED, ModelLifeState.READY]

    run(scenario())


def test_who_waits_in_a_lease_is_not_cut_for_another() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        a, b = bench.model("a", 6), bench.model("b", 6)
        await a.load()
        long = asyncio.create_task(use(a, 300))
        await asyncio.sleep(50)
        short = asyncio.create_task(use(b))
        await asyncio.sleep(1)
        assert a.state is ModelLifeState.DRAINING
        again = asyncio.create_task(use(a))  # its next turn
        await asyncio.sleep(100)
        assert not short.done()
        with pytest.raises(Unavailable, match="found no room within 120 s: it takes 6 bytes") as caught:
            await short
        assert caught.value.code == "no_memory"
        assert "'a' (6 bytes)" in caught.value.message
        with pytest.raises(Unavailable, match="makes room for another"):
            await again
        await long
        await use(b)
        assert b.state is ModelLifeState.READY

    run(scenario())


def test_two_hammered_models_take_turns_and_everyone_is_answered() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        models = [bench.model("a", 6, load=2.0), bench.model("b", 6, load=2.0)]
        answered = {"a": 0, "b": 0}
        longest = 0.0

        async def client(model: ManagedModel) -> None:
            nonlocal longest
            while bench.clock() < began + 300:
                asked = bench.clock()
                await use(model, 0.3)
                longest = max(longest, bench.clock() - asked)
                answered[model.name] += 1

        began = bench.clock()
        await asyncio.gather(*(client(model) for model in models for _ in range(4)))
        switches = len(bench.machine.started)
        assert switches <= 300 / 10 + 2, "a turn is five times the load"
        assert switches >= 300 / 14
        assert min(answered.values()) > 1000, "one starved"
        assert longest < 2 * (10 + 2 + 1)

    run(scenario())


def test_one_client_that_alternates_pays_a_moment_for_each_switch() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        models = itertools.cycle((bench.model("a", 6), bench.model("b", 6)))
        began = bench.clock()
        for _ in range(20):
            await use(next(models))
        assert bench.clock() - began < 20 * (1 + 0.1 + 0.1 + 0.5) + 1

    run(scenario())


def test_who_waits_is_admitted_in_the_order_of_asking() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        models = [bench.model(name, 10) for name in "abcd"]
        await asyncio.gather(*(use(model) for model in models for _ in range(3)))
        assert bench.machine.started == ["a", "b", "c", "d"]

    run(scenario())


def test_tenants_take_turns_for_the_memory() -> None:
    """Who wants three models does not keep another tenant waiting for more than one of them."""

    async def scenario() -> None:
        bench = Bench(10)
        models = {name: bench.model(name, 10) for name in "abcd"}

        async def want(name: str, tenant: str) -> None:
            async with models[name].lease(tenant):
                await asyncio.sleep(0.1)

        wanted = [asyncio.create_task(want(name, "greedy")) for name in "abc"]
        await asyncio.sleep(0.5)
        wanted.append(asyncio.create_task(want("d", "modest")))
        await asyncio.gather(*wanted)
        assert bench.machine.started == ["a", "d", "b", "c"]

    run(scenario())


def test_a_model_larger_than_the_budget_is_refused_at_once_with_both_figures() -> None:
    async def scenario() -> None:
        bench = Bench(10 * 2**30)
        model = bench.model("huge", 12 * 2**30)
        with pytest.raises(Unavailable, match=r"takes 12\.0 GiB, and the memory budget is 10\.0 GiB") as caught:
            await model.load()
        assert (caught.value.status, caught.value.code) == (503, "model_too_large")
        assert bench.machine.started == []
        assert model.state is ModelLifeState.FAILED
        assert bench.memory.reserved == 0

    run(scenario())


def test_a_pinned_model_stays_and_who_needs_its_room_is_told_at_once() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        pinned, other = bench.model("rock", 6, pinned=True, keep_alive=1.0), bench.model("b", 6)
        await pinned.load()
        await asyncio.sleep(3600)
        assert pinned.state is ModelLifeState.READY
        began = bench.clock()
        with pytest.raises(Unavailable, match=r"'rock' \(6 bytes\) are pinned"):
            await other.load()
        assert bench.clock() == began
        await pinned.unload()
        await other.load()
        assert other.state is ModelLifeState.READY

    run(scenario())


def test_a_failed_load_gives_its_room_back() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        broken = ManagedModel("x", lambda: bench.machine.engine("x", fails=True), memory=bench.memory, size=8)
        with pytest.raises(Unavailable, match="scripted to fail"):
            await broken.load()
        assert bench.memory.reserved == 0
        await use(bench.model("a", 8))

    run(scenario())


def test_a_load_that_is_called_off_while_it_waits_leaves_the_queue() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        a, b, c = bench.model("a", 10), bench.model("b", 10), bench.model("c", 10)
        await a.load()
        holding = asyncio.create_task(use(a, 60))
        waiting = asyncio.create_task(use(b))
        await asyncio.sleep(1)
        assert b.state is ModelLifeState.LOADING
        last = asyncio.create_task(use(c))
        await b.unload()
        with pytest.raises(Unavailable, match="was unloaded while it loaded"):
            await waiting
        await holding
        await last
        assert bench.machine.started == ["a", "c"]

    run(scenario())


def test_an_engine_that_was_asked_to_make_room_goes_within_its_turn_when_it_rests() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        a, b = bench.model("a", 6, load=10), bench.model("b", 6, load=10)
        await use(a)
        began = bench.clock()
        await use(b)
        assert bench.clock() - began < 10 + 1  # not the 50 s of a's turn

    run(scenario())


class Adapter:
    """An engine that lives in another's, as a LoRA adapter does."""

    log_tail, pids = (), ()

    def __init__(self, base: ManagedModel, load: float) -> None:
        self.exited = asyncio.get_running_loop().create_future()
        self._lease = base.lease()
        self._load = load

    async def start(self):
        endpoint = await self._lease.__aenter__()
        await asyncio.sleep(self._load)
        return endpoint

    async def health(self, within: float) -> int:
        return 200

    async def stop(self) -> None:
        await self._lease.__aexit__(None, None, None)


def adapter_over(bench: Bench, base: ManagedModel, load: float = 0.0, **options) -> ManagedModel:
    adapter = ManagedModel("base+style", lambda: Adapter(base, load), clock=bench.clock, **options)
    base.dependents.add(adapter)
    return adapter


def test_a_dependent_leaves_with_its_base_and_its_own_lease_keeps_nobody() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        base, other = bench.model("base", 6), bench.model("other", 6)
        adapter = adapter_over(bench, base, memory=bench.memory)
        await use(adapter)
        assert (base.state, base.in_flight, adapter.state) == (ModelLifeState.READY, 1, ModelLifeState.READY)
        await use(other)
        assert (base.state, base.in_flight, adapter.state) == (ModelLifeState.UNLOADED, 0, ModelLifeState.UNLOADED)
        await use(adapter)
        assert (base.state, other.state) == (ModelLifeState.READY, ModelLifeState.UNLOADED)
        await base.unload()
        assert (base.state, adapter.state) == (ModelLifeState.UNLOADED, ModelLifeState.UNLOADED)
        await asyncio.sleep(100)
        assert (base.state, adapter.state) == (ModelLifeState.UNLOADED, ModelLifeState.UNLOADED)

    run(scenario())


def test_a_dependent_that_loads_while_its_base_makes_room_leaves_once_it_has_loaded() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        base, other = bench.model("base", 6), bench.model("other", 6)
        adapter = adapter_over(bench, base, load=20.0)
        await base.load()
        served = asyncio.create_task(use(adapter))
        await asyncio.sleep(0.1)
        began = bench.clock()
        await use(other)  # when the base's turn is over, its adapter still loads
        assert bench.clock() - began < 30
        await served
        assert bench.machine.started == ["base", "other", "base"]

    run(scenario())


def test_a_base_unloads_while_requests_for_its_dependent_keep_coming() -> None:
    async def scenario() -> None:
        bench = Bench(10)
        base = bench.model("base", 6)
        adapters = [adapter_over(bench, base, load=0.1) for _ in range(2)]
        for adapter in adapters:
            await adapter.load()
        slow = asyncio.create_task(use(adapters[0], 5))
        quick = asyncio.create_task(hammer(adapters[1]))
        await asyncio.sleep(1)
        began, engine = bench.clock(), base.engine
        await base.unload(30)
        assert bench.clock() - began < 6, "no longer than the request that runs"
        assert engine.exited.done()
        quick.cancel()
        await slow
        await base.close()

    async def hammer(adapter: ManagedModel) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                await use(adapter, 0.1)
            await asyncio.sleep(0.05)

    run(scenario())
