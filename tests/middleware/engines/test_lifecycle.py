"""The owner of a managed model's state: one process at most, no lease lost, whatever happens in whatever order."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage.errors import Unavailable
from sage.middleware.engines.health import RestartPolicy
from sage.middleware.engines.managed_model import ManagedModel, ModelLifeState
from sage.middleware.engines.process import Engine, EngineFailed
from sage.middleware.providers.base import Endpoint

pytestmark = pytest.mark.slow  # many processes


class Factory:
    """Makes real engines of one spec, and keeps them."""

    def __init__(self, spec):
        self.spec = spec
        self.made: list[Engine] = []

    def __call__(self) -> Engine:
        self.made.append(Engine(self.spec, "m", grace=0.2))
        return self.made[-1]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(scenario: Callable, *arguments: object, limit: float = 60) -> None:
    """Runs the scenario; one that hangs fails after ``limit`` seconds."""
    asyncio.run(asyncio.wait_for(scenario(*arguments), limit))


def crash(engine: Engine) -> None:
    os.kill(engine.pids[2], signal.SIGKILL)  # after the two stubs


async def crashed(model: ManagedModel) -> None:
    """Kills the engine and returns once the model has noticed."""
    engine = model.engine
    crash(engine)
    await engine.exited
    await asyncio.sleep(0)


def resident(pids: tuple[int, ...]) -> int:
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") for pid in pids)


def test_ten_concurrent_first_leases_start_one_process(fake):
    async def scenario():
        made = Factory(fake("serve"))
        model = ManagedModel("m", made)
        assert (model.state, model.last_used, model.loaded_at) == ("unloaded", None, None)
        inside, leave = asyncio.Semaphore(0), asyncio.Event()

        async def caller() -> Endpoint:
            async with model.lease() as endpoint:
                inside.release()
                await leave.wait()
                return endpoint

        callers = [asyncio.create_task(caller()) for _ in range(10)]
        await asyncio.sleep(0)
        assert model.state == "loading"
        for _ in callers:
            await inside.acquire()
        assert (model.state, model.in_flight, len(made.made)) == ("ready", 10, 1)
        leave.set()
        assert len({endpoint.base_url for endpoint in await asyncio.gather(*callers)}) == 1
        assert model.in_flight == 0
        assert abs(model.last_used - time.time()) < 5
        assert abs(model.loaded_at - time.time()) < 5
        await model.close()

    run(scenario)


def test_unload_ends_the_process_and_frees_its_memory_and_the_next_lease_loads_again(fake, gone):
    async def scenario():
        made = Factory(fake("large", str(80 * 2**20)))
        model = ManagedModel("m", made)
        await model.load()
        pids = made.made[0].pids
        assert resident(pids) > 80 * 2**20
        await model.unload()
        assert (model.state, model.engine, model.loaded_at) == ("unloaded", None, None)
        assert gone(pids, within=0)
        await model.unload()
        async with model.lease():
            assert len(made.made) == 2
            assert model.state == "ready"
        await model.close()

    run(scenario)


def test_a_failed_load_tells_every_waiter_why_and_is_tried_again_by_the_next(fake, tmp_path):
    async def scenario():
        made = Factory(fake("if-exists", str(tmp_path / "part")))
        model = ManagedModel("m", made)
        failures = await asyncio.gather(*(model.load() for _ in range(5)), return_exceptions=True)
        assert [type(failure) for failure in failures] == [EngineFailed] * 5
        assert {failure.message for failure in failures} == {"part is missing"}
        assert len(made.made) == 1
        assert model.state == "failed"
        assert model.error["message"] == "part is missing"
        assert abs(model.error["at"] - time.time()) < 5
        (tmp_path / "part").touch()
        await model.load()
        assert (model.state, model.error, len(made.made)) == ("ready", None, 2)
        await model.close()

    run(scenario)


def test_a_defect_of_the_start_leaves_the_model_failed_not_loading():
    def defect():
        raise ZeroDivisionError("oops")

    async def scenario():
        model = ManagedModel("m", defect)
        with pytest.raises(Unavailable, match="could not be started"):
            await model.load()
        assert model.state == "failed"

    run(scenario)


def test_a_crash_is_followed_by_restarts_with_growing_pauses(fake):
    async def scenario():
        clock = Clock()
        made = Factory(fake("serve"))
        model = ManagedModel("m", made, policy=RestartPolicy(first=2, stable=100), clock=clock)
        await model.load()
        await crashed(model)
        assert model.state == "failed"
        assert model.error["message"] == "the engine of model 'm' was ended by SIGKILL while it served"
        await model.load()  # the first restart does not wait
        assert model.state == "ready"
        for pause in (2, 4, 8):
            await crashed(model)
            with pytest.raises(EngineFailed, match=r"SIGKILL while it served; it died \d times in a row") as caught:
                await model.load()
            assert caught.value.status == 503
            assert caught.value.retry_after == pytest.approx(pause)
            clock.now += pause - 0.5
            with pytest.raises(EngineFailed) as caught:
                await model.load()
            assert caught.value.retry_after == pytest.approx(0.5)
            clock.now += 0.5
            await model.load()
        clock.now += 100
        await crashed(model)
        await model.load()  # it had lived: the count starts afresh
        await crashed(model)
        await model.unload()  # and an operator's unload forgets it
        assert (model.state, model.error) == ("unloaded", None)
        await model.load()
        assert len(made.made) == 7
        await model.close()

    run(scenario)


@given(st.integers(0, 10_000))
def test_pauses_grow_to_a_bound(deaths):
    policy = RestartPolicy(first=1, factor=2, longest=60, stable=30)
    assert policy.pause(deaths) <= policy.pause(deaths + 1) <= 60
    assert (policy.pause(1), policy.pause(2), policy.pause(3), policy.pause(100)) == (0, 1, 2, 60)
    assert policy.crash_count(deaths, 29.9) == deaths + 1
    assert policy.crash_count(deaths, 30.0) == 1


def test_a_caller_who_leaves_does_not_break_the_load_of_others(fake):
    async def scenario():
        made = Factory(fake("serve"))
        model = ManagedModel("m", made)
        first, second = asyncio.create_task(model.load()), asyncio.create_task(model.load())
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled()
        assert (model.state, len(made.made), model.in_flight) == ("ready", 1, 0)
        await model.close()

    run(scenario)


def test_a_load_goes_on_when_the_last_waiter_leaves_and_unloads_when_nobody_comes(fake):
    async def scenario():
        made = Factory(fake("serve"))
        model = ManagedModel("m", made, keep_alive=0.05)
        only = asyncio.create_task(model.load())
        await asyncio.sleep(0)
        only.cancel()
        await asyncio.wait((only,))
        assert model.state == "loading"
        while not made.made:
            await asyncio.sleep(0)
        await made.made[0].exited
        assert model.loaded_at is not None  # it was ready, then idle
        while model.state != "unloaded":
            await asyncio.sleep(0)

    run(scenario)


def test_an_idle_model_unloads_after_its_keep_alive_but_not_while_leased(fake):
    async def scenario():
        made = Factory(fake("serve"))
        model = ManagedModel("m", made, keep_alive=0.1)
        async with model.lease():
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(made.made[0].exited), 0.4)
            assert model.state == "ready"
        await made.made[0].exited
        assert time.monotonic() - began >= 0.5

    run(scenario)


@pytest.mark.parametrize("keep_alive", [0.0, 1e-6])
def test_a_very_short_keep_alive_still_serves(fake, keep_alive):
    async def scenario():
        made = Factory(fake("serve"))
        model = ManagedModel("m", made, keep_alive=keep_alive)
        async with model.lease():
            assert model.state == "ready"
        await made.made[0].exited
        assert len(made.made) == 1

    run(scenario)


def test_a_request_that_meets_an_idle_unload_waits_and_loads_again(fake):
    async def scenario():
        made = Factory(fake("stubborn"))  # so that the end takes its grace
        model = ManagedModel("m", made, keep_alive=0.01)
        await model.load()
        while model.state == "ready":
            await asyncio.sleep(0.001)
        assert model.state == "draining"
        async with model.lease():
            assert (model.state, len(made.made)) == ("ready", 2)
            assert made.made[0].exited.done()
        await model.close()

    run(scenario)


def test_unload_waits_for_running_leases_and_refuses_new_ones(fake):
    async def scenario():
        made = Factory(fake("serve"))
        model = ManagedModel("m", made)
        async with model.lease():
            unloading = asyncio.create_task(model.unload())
            await asyncio.sleep(0)
            assert model.state == "draining"
            with pytest.raises(Unavailable, match="is being unloaded") as caught:
                await model.load()
            assert caught.value.retry_after == 1
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(made.made[0].exited), 0.3)
            assert model.state == "draining"
        await unloading
        assert model.state == "unloaded"
        assert made.made[0].exited.done()

    run(scenario)


def test_the_drain_has_a_limit(fake):
    async def scenario():
        made = Factory(fake("serve"))
        model = ManagedModel("m", made)
        async with model.lease():
            await model.unload(drain=0.1)
            assert (model.state, model.in_flight) == ("unloaded", 1)
            assert made.made[0].exited.done()
        assert model.in_flight == 0

    run(scenario)


def test_a_drain_ends_when_the_engine_dies(fake):
    async def scenario():
        made = Factory(fake("serve"))
        model = ManagedModel("m", made)
        async with model.lease():
            unloading = asyncio.create_task(model.unload(drain=1000))
            await asyncio.sleep(0)
            crash(made.made[0])
            await unloading
        assert model.state == "unloaded"

    run(scenario)


def test_concurrent_unloads_share_one_and_outlive_a_caller_who_leaves(fake):
    async def scenario():
        made = Factory(fake("stubborn"))
        model = ManagedModel("m", made)
        await model.load()
        first, second = asyncio.create_task(model.unload()), asyncio.create_task(model.unload())
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled()
        assert model.state == "unloaded"
        assert made.made[0].exited.done()

    run(scenario)


def test_unload_while_loading_ends_unloaded_and_tells_who_waited(fake, gone):
    async def scenario():
        made = Factory(fake("silent"))
        model = ManagedModel("m", made)
        waiter = asyncio.create_task(model.load())
        await asyncio.sleep(0)
        while not (made.made and made.made[0].log_tail):
            await asyncio.sleep(0.01)
        pids = made.made[0].pids
        await model.unload()
        with pytest.raises(Unavailable, match="was unloaded while it loaded"):
            await waiter
        assert model.state == "unloaded"
        assert gone(pids, within=0)

    run(scenario)


def test_a_closed_model_starts_nothing_and_does_not_wait_for_an_earlier_drain(fake):
    async def scenario():
        made = Factory(fake("serve"))
        model = ManagedModel("m", made)
        async with model.lease():
            unloading = asyncio.create_task(model.unload(drain=1000))
            await asyncio.sleep(0)
            await model.close()
            await unloading
        with pytest.raises(Unavailable, match="shuts down"):
            await model.load()
        assert len(made.made) == 1
        assert made.made[0].exited.done()

    run(scenario)


class ScriptedEngine:
    """An engine without a process, whose every step takes as many turns of the event loop as its script says."""

    alive = 0
    log_tail = ("log",)
    pids = ()

    def __init__(self, script: random.Random):
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._script = script
        self._runs = False

    async def start(self) -> Endpoint:
        ScriptedEngine.alive += 1
        assert ScriptedEngine.alive == 1, "two processes at once"
        self._runs = True
        try:
            await self._turns()
            if self._script.random() < 0.2:
                raise EngineFailed("scripted")
        except BaseException:
            await self.stop()
            raise
        return Endpoint("http://127.0.0.1:1")

    async def health(self, within: float) -> int:
        return 200

    async def stop(self) -> None:
        await self._turns()
        self.die()

    def die(self) -> None:
        if self._runs:
            ScriptedEngine.alive -= 1
            self._runs = False
            self.exited.set_result(0)

    async def _turns(self) -> None:
        for _ in range(self._script.randrange(4)):
            await asyncio.sleep(0)


async def storm(
    model: ManagedModel, script: random.Random, steps: int, kill: Callable[[object], None], longest: float = 0.0
) -> None:
    """Leases, loads, unloads, crashes and cancellations in any order, up to ``longest`` seconds apart."""
    tasks: list[asyncio.Task[None]] = []

    async def hold() -> None:
        async with model.lease():
            assert model.in_flight > 0
            for _ in range(script.randrange(6)):
                await asyncio.sleep(longest * script.random())

    for _ in range(steps):
        assert model.error is None or model.state not in ("ready", "unloaded")
        assert (model.loaded_at is not None) == (model.state == "ready") or model.state == "draining"
        step = script.choices(("lease", "load", "unload", "crash", "cancel", "wait"), (6, 1, 2, 2, 3, 8))[0]
        if step == "lease":
            tasks.append(asyncio.create_task(hold()))
        elif step == "load":
            tasks.append(asyncio.create_task(model.load()))
        elif step == "unload":
            tasks.append(asyncio.create_task(model.unload(drain=script.choice((0.0, 0.001, 1000.0)))))
        elif step == "crash" and model.engine is not None:
            kill(model.engine)
        elif step == "cancel" and tasks:
            script.choice(tasks).cancel()
        else:
            await asyncio.sleep(longest * script.random())
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    unexpected = [o for o in outcomes if not isinstance(o, Unavailable | asyncio.CancelledError | None)]
    assert unexpected == []
    assert model.in_flight == 0


@given(st.integers(0, 2**32), st.sampled_from((0.0, 0.0005, 1000.0)))
def test_any_order_of_events_keeps_one_process_and_every_lease(seed, keep_alive):
    async def scenario():
        ScriptedEngine.alive = 0
        script = random.Random(seed)
        policy = RestartPolicy(first=0.0001, longest=0.001)
        model = ManagedModel("m", lambda: ScriptedEngine(script), keep_alive, policy=policy)
        await storm(model, script, 60, lambda engine: engine.die() if model.state is ModelLifeState.READY else None)
        while True:  # whatever happened, it can serve again
            try:
                async with model.lease():
                    assert ScriptedEngine.alive == 1
                    break
            except Unavailable as exc:
                await asyncio.sleep(min(exc.retry_after, 0.001))
        await model.close()
        assert ScriptedEngine.alive == 0
        assert model.state in ("unloaded", "failed")

    run(scenario, limit=30)


def test_any_order_of_events_leaves_no_process_behind(fake, gone):
    async def scenario(seed: int):
        made = Factory(fake("serve"))
        seen: set[int] = set()
        script = random.Random(seed)

        def kill(engine: Engine) -> None:
            pids = engine.pids
            seen.update(pids)
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(script.choice(pids), signal.SIGKILL)

        model = ManagedModel("m", made, keep_alive=0.01, policy=RestartPolicy(first=0.01, longest=0.02))
        for _ in range(4):
            await storm(model, script, 40, kill, longest=0.05)
            assert sum(not engine.exited.done() for engine in made.made) <= 1
            if model.engine is not None:
                seen.update(model.engine.pids)
        await model.close()
        assert all(engine.exited.done() or engine.pid is None for engine in made.made)
        assert gone(seen, within=0)
        started.append(len(made.made))

    started: list[int] = []
    for seed in range(4):
        run(scenario, seed)
    assert sum(started) > 20, "hardly anything was started"
