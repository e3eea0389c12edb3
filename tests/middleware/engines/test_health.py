"""Engines that die or hang while they serve: noticed, told to who waits, and started again."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from scripted_engine import Machine, ScriptedEngine
from virtual_time import run

from sage.errors import Unavailable
from sage.middleware.engines.health import HealthPolicy, RestartPolicy
from sage.middleware.engines.managed_model import ManagedModel, ModelLifeState
from sage.middleware.engines.memory_budget import MemoryBudget
from sage.middleware.engines.process import Engine, EngineFailed
from sage.middleware.providers.base import Endpoint


def scripted(machine: Machine, **options) -> ManagedModel:
    return ManagedModel("m", lambda: machine.engine("m"), clock=asyncio.get_running_loop().time, **options)


def test_an_engine_that_died_is_started_again_by_itself_after_growing_pauses() -> None:
    async def scenario() -> None:
        machine = Machine()
        model = scripted(machine, policy=RestartPolicy(restart=1.0))
        await model.load()
        for pause in (1, 1, 2, 4, 8, 16, 32, 60, 60):
            machine.running["m"].die()
            await asyncio.sleep(0)
            assert model.state is ModelLifeState.FAILED
            assert model.error["message"] == "the engine of model 'm' was ended by SIGKILL while it served"
            await asyncio.sleep(pause - 0.5)
            assert model.state is ModelLifeState.FAILED
            await asyncio.sleep(0.6)
            assert model.state is ModelLifeState.LOADING
            await asyncio.sleep(1)
            assert (model.state, model.error) == (ModelLifeState.READY, None)
        assert len(machine.started) == 10
        machine.running["m"].die()
        await asyncio.sleep(0)
        await model.close()
        await asyncio.sleep(1000)
        assert len(machine.started) == 10

    run(scenario())


def test_a_dead_engine_whose_room_was_taken_waits_for_a_request() -> None:
    async def scenario() -> None:
        machine = Machine()
        memory = MemoryBudget(10, clock=asyncio.get_running_loop().time)
        model = scripted(machine, memory=memory, size=6)
        other = ManagedModel("o", lambda: machine.engine("o"), memory=memory, size=6, clock=memory._clock)
        await model.load()
        machine.running["m"].die()
        await other.load()
        await asyncio.sleep(100)
        assert machine.started == ["m", "o"]
        await model.load()
        assert machine.started == ["m", "o", "m"]

    run(scenario())


def test_an_engine_that_hangs_is_given_up_and_replaced() -> None:
    async def scenario() -> None:
        machine = Machine()
        model = scripted(machine, health=HealthPolicy(interval=10, limit=5, failures=3))
        async with asyncio.timeout(300):
            async with model.lease():
                await asyncio.sleep(30)
            lease = model.lease()
            await lease.__aenter__()
            machine.running["m"].hangs = True
            cause = await lease.engine_death(60)
            assert isinstance(cause, EngineFailed)
            assert cause.message == "the engine of model 'm' does not answer its health check"
            await lease.__aexit__(None, None, None)
            assert (model.state, model.in_flight) == (ModelLifeState.FAILED, 0)
            assert model.error["message"] == cause.message
            await model.load()
            assert (model.state, machine.started) == (ModelLifeState.READY, ["m", "m"])

    run(scenario())


class Overloaded(ScriptedEngine):
    """Does not answer its health check for all the requests that it has, but takes processor time: our own."""

    hangs = True
    pids = (os.getpid(),)
    checks = 0

    async def health(self, within: float) -> int:
        self.checks += 1
        began = os.times().user
        while os.times().user - began < 0.02:
            pass
        return 0


@pytest.mark.slow
@pytest.mark.parametrize(("answers", "state"), [(True, ModelLifeState.READY), (False, ModelLifeState.FAILED)])
def test_an_engine_that_is_only_busy_is_left_alone(answers: bool, state: ModelLifeState) -> None:
    async def scenario() -> None:
        machine = Machine()
        policy, health = RestartPolicy(restart=100), HealthPolicy(interval=0.02, limit=0.02, failures=3)
        model = ManagedModel("m", lambda: Overloaded(machine, "m", 0, 0, False), policy=policy, health=health)
        await model.load()
        model.size = 0
        engine = model.engine
        while engine.checks < 10 and model.state is ModelLifeState.READY:
            if answers:
                await model.load()  # a lease that ends
            await asyncio.sleep(0.005)
        assert model.state is not ModelLifeState.READY or answers
        while model.state is ModelLifeState.DRAINING:
            await asyncio.sleep(0.005)
        assert model.state is state
        await model.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_bad_answer_is_no_business_of_how_busy_it_is() -> None:
    async def scenario() -> None:
        machine = Machine()

        class Broken(ScriptedEngine):
            async def health(self, within: float) -> int:
                return 503

        model = ManagedModel("m", lambda: Broken(machine, "m", 1, 0.1, False), policy=RestartPolicy(restart=100))
        await model.load()
        await asyncio.sleep(31)
        assert model.state is ModelLifeState.FAILED
        assert model.error["message"] == "the engine of model 'm' answered its health check with 503"

    run(scenario())


@pytest.mark.slow
def test_a_stopped_process_is_noticed_killed_and_replaced(fake, gone) -> None:
    async def scenario() -> None:
        made: list[Engine] = []

        def start() -> Engine:
            made.append(Engine(fake("serve"), "m", grace=0.2))
            return made[-1]

        model = ManagedModel("m", start, health=HealthPolicy(interval=0.1, limit=0.7, failures=3))
        lease = model.lease()
        await lease.__aenter__()
        pids = made[0].pids
        os.kill(pids[2], signal.SIGSTOP)
        cause = await lease.engine_death(30)
        assert cause.message == "the engine of model 'm' does not answer its health check"
        assert cause.status == 503
        assert gone(pids, within=0)
        await lease.__aexit__(None, None, None)
        async with model.lease():
            assert len(made) == 2
        await model.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_an_engine_that_babbles_is_not_well(fake) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 2**20)
        writer.close()

    async def scenario() -> int:
        async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
            engine = Engine(fake("serve"), "m")
            engine._endpoint = Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            return await engine.health(20)

    assert asyncio.run(scenario()) == 0


def test_who_holds_a_lease_hears_why_its_engine_is_gone(fake) -> None:
    async def scenario() -> None:
        made: list[Engine] = []

        def start() -> Engine:
            made.append(Engine(fake("serve"), "m", grace=0.2))
            return made[-1]

        model = ManagedModel("m", start)
        first = model.lease()
        await first.__aenter__()
        assert await first.engine_death(0.05) is None
        os.kill(made[0].pids[2], signal.SIGKILL)
        cause = await first.engine_death()
        assert isinstance(cause, EngineFailed)
        assert cause.message == "the engine of model 'm' was ended by SIGKILL while it served"
        second = model.lease()
        await second.__aenter__()
        assert await second.engine_death(0.05) is None
        assert (await first.engine_death()).status == 503
        await model.unload(drain=0)
        assert (await second.engine_death()).message == "model 'm' was unloaded while it answered"
        for lease in (first, second):
            await lease.__aexit__(None, None, None)
        assert model.in_flight == 0

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.slow
def test_what_an_engine_takes_is_measured_and_one_that_outgrows_the_budget_is_ended(fake, gone) -> None:
    async def scenario() -> None:
        made: list[Engine] = []

        def start() -> Engine:
            made.append(Engine(fake("large", str(80 * 2**20)), "m", grace=0.2))
            return made[-1]

        roomy = ManagedModel("m", start, memory=MemoryBudget(2**30))
        await roomy.load()
        assert 80 * 2**20 < roomy.measured < 200 * 2**20
        assert roomy.size == roomy.measured
        await roomy.close()
        memory = MemoryBudget(60 * 2**20)
        tight = ManagedModel("m", start, memory=memory)
        loading = asyncio.create_task(tight.load())
        with pytest.raises(Unavailable, match=r"is too large: it takes .* and the memory budget is 60\.0 MiB"):
            await loading
        assert made[1].exited.done()
        assert (tight.state, memory.reserved) == (ModelLifeState.FAILED, 0)
        with pytest.raises(Unavailable, match="is too large"):
            await tight.load()
        assert len(made) == 2, "it is known by now"
        stated = ManagedModel("m", start, memory=MemoryBudget(2**30), size=2**29)
        await stated.load()
        assert stated.size == 2**29
        await stated.close()

    asyncio.run(asyncio.wait_for(scenario(), 60))
