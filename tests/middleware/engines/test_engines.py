"""Engines as families of processes: how they start, fail and end. Real processes throughout."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from sage.middleware.engines.process import Engine, EngineFailed, LineSplitter, describe_status, engine_environment

pytestmark = pytest.mark.slow  # many processes


def arguments(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


async def failure_of(engine: Engine) -> EngineFailed:
    with pytest.raises(EngineFailed) as caught:
        await engine.start()
    assert engine.pids == ()
    assert engine.exited.done()
    return caught.value


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_engine_serves_with_its_own_key_and_ends(fake, gone, get, loop):
    async def scenario():
        engine = Engine(fake("serve"), "m")
        endpoint = await engine.start()
        assert not endpoint.base_url.endswith("/")
        assert (await asyncio.to_thread(get, endpoint, "/x"))[0] == 200
        assert (await asyncio.to_thread(get, endpoint, "/x", None, "wrong"))[0] == 401
        key = endpoint.headers["Authorization"].removeprefix("Bearer ")
        assert len(key) >= 32
        pids = engine.pids
        assert len(pids) == 3  # two stubs and the engine
        assert pids[0] == engine.pid
        assert all(key.encode() not in arguments(pid) for pid in pids)
        await engine.stop()
        await engine.stop()
        assert engine.exited.result() == 128 + signal.SIGTERM
        assert gone(pids, within=0)
        assert engine.pids == ()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_engine_runs_from_an_event_loop_that_is_not_the_main_threads(fake, gone, loop):
    def in_thread():
        async def scenario():
            engine = Engine(fake("serve"), "m")
            await engine.start()
            pids = engine.pids
            await engine.stop()
            return pids

        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(scenario())

    async def outside():
        return await asyncio.to_thread(in_thread)

    assert gone(asyncio.run(outside()), within=0)


def test_two_engines_have_different_keys(fake):
    async def scenario():
        engines = [Engine(fake("serve"), "m") for _ in range(2)]
        endpoints = [await engine.start() for engine in engines]
        assert endpoints[0].headers != endpoints[1].headers
        for engine in engines:
            await engine.stop()

    asyncio.run(scenario())


def test_vendor_keys_are_not_inherited(fake, get, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("SAGE_LLM__PROVIDERS__EAST__API_KEY", "sk-secret")

    async def scenario():
        engine = Engine(fake("serve"), "m")
        endpoint = await engine.start()
        _, environment = await asyncio.to_thread(get, endpoint, "/env")
        raw = [Path(f"/proc/{pid}/environ").read_bytes() for pid in engine.pids]
        await engine.stop()
        return environment, raw

    environment, raw = asyncio.run(scenario())
    assert environment["PATH"] == os.environ["PATH"]
    assert "sk-secret" not in environment.values()
    assert len(raw) == 3
    assert not any(b"sk-secret" in block for block in raw)


def test_the_spec_adds_to_the_environment():
    environ = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "1",
        "ZHIPUAI_API_KEY": "z",
        "HTTPS_PROXY": "u:p@h",
    }
    assert engine_environment(environ, {"HF_HUB_OFFLINE": "1", "PATH": "/opt"}) == {
        "PATH": "/opt",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "1",
        "HF_HUB_OFFLINE": "1",
    }


def test_what_the_engine_says_it_failed_of_is_the_cause(fake):
    async def scenario():
        plain = await failure_of(Engine(fake("error"), "m"))
        assert plain.message.startswith("the model cannot be loaded")
        assert plain.status == 503
        assert plain.log == (
            "12.5 E loader: the tensors are upside down",
            "12.6 E loader: giving up",
        )
        marked = await failure_of(Engine(fake("error", " E "), "m"))
        assert marked.message == "the model cannot be loaded: loader: the tensors are upside down"

    asyncio.run(scenario())


def test_an_engine_that_exits_before_it_serves_fails_with_its_status_and_log(fake):
    async def scenario():
        failure = await failure_of(Engine(fake("early-exit", "3"), "m"))
        assert failure.message == "the engine of model 'm' exited with status 3 before it served"
        assert failure.log == ("no room",)

    asyncio.run(scenario())


def test_a_program_that_does_not_exist_is_named(fake):
    async def scenario():
        spec = fake("serve")
        failure = await failure_of(Engine(type(spec)(("/no/such/engine",)), "m"))
        assert "'/no/such/engine' cannot be started: No such file" in failure.message

    asyncio.run(scenario())


def test_a_start_that_takes_too_long_leaves_nothing(fake, gone):
    async def scenario():
        engine = Engine(fake("silent", start_timeout=4), "m")
        starting = asyncio.create_task(failure_of(engine))
        while not engine.log_tail:
            await asyncio.sleep(0.01)
        pids = engine.pids
        assert len(pids) == 3
        failure = await starting
        assert "did not serve within 4 s" in failure.message
        assert failure.log == ("not yet",)
        assert gone(pids, within=0)

    asyncio.run(scenario())


@pytest.mark.parametrize(("mode", "cause"), [("unhealthy", "health check with 503"), ("elsewhere", "192.0.2.1")])
def test_an_engine_that_is_not_well_or_not_on_loopback_is_refused(fake, mode, cause):
    async def scenario():
        assert cause in (await failure_of(Engine(fake(mode), "m"))).message

    asyncio.run(scenario())


def test_a_cancelled_start_leaves_nothing(fake, gone):
    async def scenario():
        engine = Engine(fake("silent"), "m")
        starting = asyncio.create_task(engine.start())
        while not engine.log_tail:
            await asyncio.sleep(0.01)
        pids = engine.pids
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert len(pids) == 3
        assert gone(pids, within=0)

    asyncio.run(scenario())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_start_cancelled_at_once_leaves_nothing(fake, loop):
    async def scenario(steps: int):
        engine = Engine(fake("serve"), "m")
        starting = asyncio.create_task(engine.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait((starting,))
        assert starting.cancelled()
        assert engine.pids == ()
        assert steps == 0 or engine.exited.done()

    with asyncio.Runner(loop_factory=loop) as runner:
        for steps in range(8):
            runner.run(scenario(steps))


def test_stop_ends_a_family_that_ignores_sigterm(fake, gone):
    async def scenario():
        engine = Engine(fake("stubborn"), "m", grace=0.2)
        await engine.start()
        pids = engine.pids
        await engine.stop()
        assert engine.exited.result() == 128 + signal.SIGKILL
        assert gone(pids, within=0)

    asyncio.run(scenario())


def test_stop_ends_children_in_sessions_of_their_own(fake, gone, tmp_path):
    async def scenario():
        engine = Engine(fake("daemon", str(tmp_path / "pids")), "m", grace=0.2)
        await engine.start()
        noted = {int(pid) for pid in (tmp_path / "pids").read_text().split()}
        assert noted < set(engine.pids)
        assert len({os.getsid(pid) for pid in noted}) == 2
        await engine.stop()
        assert gone(noted, within=0)

    asyncio.run(scenario())


def test_when_the_engine_exits_the_rest_of_its_family_ends(fake, gone, get, tmp_path):
    async def scenario():
        engine = Engine(fake("daemon", str(tmp_path / "pids")), "m", grace=0.2)
        endpoint = await engine.start()
        with contextlib.suppress(OSError):
            await asyncio.to_thread(get, endpoint, "/exit?7")
        assert await asyncio.wait_for(engine.exited, 10) == 7
        assert gone([int(pid) for pid in (tmp_path / "pids").read_text().split()], within=0)

    asyncio.run(scenario())


def test_a_ctrl_c_in_the_terminal_does_not_reach_engines(fake, get):
    async def scenario():
        engine = Engine(fake("serve"), "m")
        endpoint = await engine.start()
        assert all(os.getsid(pid) != os.getsid(0) for pid in engine.pids)
        os.kill(engine.pid, signal.SIGINT)
        os.kill(engine.pid, signal.SIGHUP)
        assert (await asyncio.to_thread(get, endpoint, "/x"))[0] == 200
        assert not engine.exited.done()
        await engine.stop()

    asyncio.run(scenario())


def test_a_flood_of_output_blocks_nothing_and_is_kept_in_bounds(fake):
    async def scenario():
        engine = Engine(fake("noisy"), "m")
        await engine.start()
        await engine.stop()
        assert engine.log_tail == tuple(f"line {number}" for number in range(99_950, 100_000))

    asyncio.run(scenario())


@given(st.lists(st.text("ab\n", max_size=12)), st.integers(1, 6))
def test_lines_are_those_of_the_whole_text_cut_to_the_limit(pieces, limit):
    lines = LineSplitter(limit)
    got = [line for piece in pieces for line in lines.feed(piece.encode())] + lines.flush()
    expected = "".join(pieces).split("\n")
    if not expected[-1]:
        expected.pop()
    assert got == [line[:limit] for line in expected]


def test_statuses_read_as_what_happened():
    assert describe_status(0) == "exited with status 0"
    assert describe_status(127) == "exited with status 127"
    assert describe_status(137) == describe_status(-9) == "was ended by SIGKILL"
    assert describe_status(255) == "exited with status 255"
