"""One engine a model, whoever stands on it: how it is kept is what all of them say together."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from project import SCRIPTED
from scripted_engine import Machine
from virtual_time import run

from sage.errors import Conflict
from sage.middleware.engines.fleet import Fleet
from sage.middleware.engines.managed_model import ManagedModel, ModelLifeState
from sage.middleware.engines.memory_budget import MemoryBudget
from sage.middleware.providers.base import EngineSpec
from sage.middleware.settings.settings import DeploymentSettings, ManagedServer, Model

FAKE = str(SCRIPTED / "fake_engine.py")
DEPLOYMENT = DeploymentSettings(provider="p", model="m")


def provider(*arguments: str) -> Any:
    spec = EngineSpec((sys.executable, "-I", "-S", FAKE, *(arguments or ("serve",))), memory=7)
    return SimpleNamespace(name="p", kind="local", endpoints=(), engine=lambda _: spec)


def model(**fields: Any) -> Model:
    return Model(deployments=(DEPLOYMENT,), **fields)


def test_public_models_of_one_engine_share_it_and_the_most_patient_decides() -> None:
    fleet, place = Fleet(600.0), provider()
    plain = fleet.manage(place, DEPLOYMENT, model(), "plain")
    assert (plain.keep_alive, plain.pinned, plain.size) == (600, False, 7)
    assert fleet.manage(place, DEPLOYMENT, model(keep_alive=5, pin=True), "hasty") is plain
    assert (plain.keep_alive, plain.pinned) == (600, True)
    assert fleet.manage(place, DEPLOYMENT, model(keep_alive=900), "patient") is plain
    assert (plain.keep_alive, plain.pinned) == (900, True)
    assert fleet.manage(place, DEPLOYMENT, model(keep_alive=1, pin=False), "hasty") is plain
    assert (plain.keep_alive, plain.pinned) == (900, False)
    assert fleet.manage(place, DEPLOYMENT, model(keep_alive=3600)) is plain
    assert plain.keep_alive == 900, "p/m without a public name has no say"
    fleet.retire([*fleet.forget("patient"), *fleet.forget("plain")])
    assert plain.keep_alive == 1
    left = fleet.forget("hasty")
    assert left == [plain]
    assert plain.keep_alive == 1, "until it is known that nobody stands on it again"
    fleet.retire(left)  # it never ran: nothing to be done, and no event loop needed
    assert (plain.keep_alive, plain.pinned) == (600, False)


def test_two_ways_to_start_one_model_are_a_conflict() -> None:
    fleet = Fleet(600.0)
    started = DEPLOYMENT.model_copy(update={"engine": ManagedServer()})
    one = fleet.manage(provider("serve"), started, model(), "one")
    with pytest.raises(Conflict, match="'p/m' is started by another deployment with other arguments"):
        fleet.manage(provider("stubborn"), started, model(), "two")
    assert fleet.manage(provider("stubborn"), DEPLOYMENT, model(), "three") is one, "who says nothing takes what runs"


def test_an_engine_that_nobody_stands_on_any_more_ends_after_its_requests() -> None:
    async def scenario() -> None:
        fleet, place = Fleet(600.0), provider()
        managed = fleet.manage(place, DEPLOYMENT, model(), "mine")
        async with managed.lease():
            fleet.retire(fleet.forget("mine"))
            await asyncio.sleep(0)
            assert (managed.state, managed.in_flight) == (ModelLifeState.DRAINING, 1)
            engine = managed.engine
        await engine.exited
        while managed.state is not ModelLifeState.UNLOADED:
            await asyncio.sleep(0)
        again = fleet.manage(place, DEPLOYMENT, model(), "mine")
        assert again is managed, "or there could be two processes of one model"
        await again.load()
        left = fleet.forget("mine")
        fleet.manage(place, DEPLOYMENT, model(keep_alive=9), "mine")
        fleet.retire(left)
        await asyncio.sleep(0)
        assert (managed.state, managed.keep_alive) == (ModelLifeState.READY, 9), "replaced, not removed"
        await fleet.close()
        assert managed.state is ModelLifeState.UNLOADED

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_request_that_runs_or_waits_for_the_load_is_answered_when_its_model_is_retired() -> None:
    async def scenario() -> None:
        machine = Machine()
        fleet, place = Fleet(600.0), provider()
        managed = fleet.manage(place, DEPLOYMENT, model(), "mine")
        managed._start = lambda: machine.engine("m")

        async def answer() -> None:
            async with managed.lease():
                assert managed.engine is not None
                await asyncio.sleep(120)
                assert not managed.engine.exited.done(), "it was cut"

        waits = asyncio.create_task(answer())
        await asyncio.sleep(0.5)
        assert managed.state is ModelLifeState.LOADING
        fleet.retire(fleet.forget("mine"))
        await asyncio.sleep(60)
        assert managed.state is ModelLifeState.DRAINING
        await waits
        await asyncio.sleep(1)
        assert (managed.state, machine.running) == (ModelLifeState.UNLOADED, {})
        await fleet.close()

    run(scenario())


def test_a_pinned_model_that_is_registered_anew_is_not_evicted_in_between() -> None:
    async def scenario() -> None:
        machine = Machine()
        memory = MemoryBudget(10, clock=asyncio.get_running_loop().time)
        fleet, place = Fleet(600.0, memory), provider()
        managed = fleet.manage(place, DEPLOYMENT, model(), "mine")
        managed._start, managed._clock = (lambda: machine.engine("m")), memory._clock
        other = ManagedModel("o", lambda: machine.engine("o"), memory=memory, size=5, patience=100, clock=memory._clock)
        async with managed.lease():
            waiting = asyncio.create_task(other.load())
            await asyncio.sleep(0.1)
            fleet.manage(place, DEPLOYMENT, model(pin=True), "mine")
        await asyncio.sleep(60)
        left = fleet.forget("mine")
        assert fleet.manage(place, DEPLOYMENT, model(pin=True, keep_alive=9), "mine") is managed
        fleet.retire(left)
        await asyncio.sleep(1)
        assert (managed.state, managed.keep_alive, machine.started) == (ModelLifeState.READY, 9, ["m"])
        waiting.cancel()
        await other.close()
        await fleet.close()

    run(scenario())
