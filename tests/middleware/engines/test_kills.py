"""Whoever is killed by SIGKILL, and whichever two in the same instant: nothing of an engine is left behind."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from project import ROOT, SCRIPTED

FAKE = str(SCRIPTED / "fake_engine.py")
ROUNDS = 25 if os.environ.get("SAGE_TEST_FULL") else 2
HOLDER = f"""
import asyncio, sys
from sage.middleware.providers.base import EngineSpec
from sage.middleware.engines.process import Engine
async def main():
    command = (sys.executable, "-I", "-S", {FAKE!r}, "unruly", sys.argv[1])
    engine = Engine(EngineSpec(command), "m", grace=0.2)
    await engine.start()
    print(*engine.pids, flush=True)
    await engine.exited
    print(engine.exited.result(), flush=True)
    sys.stdin.read()
asyncio.run(main())
"""


@dataclass
class Held:
    """A process that holds an engine, as the gateway does, and the engine's family."""

    process: subprocess.Popen
    outer: int
    inner: int
    engine: int
    daemon: int

    @property
    def family(self) -> list[int]:
        return [self.outer, self.inner, self.engine, self.daemon]

    def kill(self, names: str) -> None:
        """SIGKILL for all of them in one instant: each is stopped first, so none can act on another's end."""
        pids = [self.process.pid if name == "gateway" else getattr(self, name) for name in names.split()]
        with ExitStack() as stack:
            handles = [os.pidfd_open(pid) for pid in pids]
            for handle in handles:
                stack.callback(os.close, handle)
                signal.pidfd_send_signal(handle, signal.SIGSTOP)
            random.shuffle(handles)
            for handle in handles:
                with suppress(ProcessLookupError):  # an engine dies with its stub, even while it is stopped
                    signal.pidfd_send_signal(handle, signal.SIGKILL)


@contextmanager
def held(notes: Path) -> Iterator[Held]:
    """The engine has a daemon with a session of its own, and neither of them heeds SIGTERM."""
    process = subprocess.Popen(
        (sys.executable, "-c", HOLDER, str(notes)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    family: list[int] = []
    with process:
        try:
            family = [int(pid) for pid in process.stdout.readline().split()]
            daemon, engine = (int(pid) for pid in notes.read_text().split())
            outer, inner = (pid for pid in family if pid not in (daemon, engine))
            assert len({os.getsid(pid) for pid in family}) == 4
            yield Held(process, outer, inner, engine, daemon)
        finally:
            process.kill()
            for pid in family:  # only what a test has failed to see the end of
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        "gateway",
        "outer",
        "inner",
        "engine",
        "gateway outer",
        "gateway inner",
        "gateway engine",
        "outer inner",
        "outer engine",
        "inner engine",
        "gateway outer engine",
        "gateway inner engine",
    ],
)
def test_nothing_is_left_behind(names: str, gone: Callable[..., bool], tmp_path: Path) -> None:
    for _ in range(ROUNDS):
        with held(tmp_path / "pids") as it:
            assert not any(gone((pid,), within=0) for pid in it.family)
            it.kill(names)
            assert gone(it.family)


@pytest.mark.slow
def test_the_gateway_hears_how_an_engine_ended_whose_stub_was_killed(gone: Callable[..., bool], tmp_path: Path) -> None:
    for name, status in (("outer", -signal.SIGKILL), ("inner", 128 + signal.SIGKILL), ("engine", 128 + signal.SIGKILL)):
        with held(tmp_path / "pids") as it:
            it.kill(name)
            assert int(it.process.stdout.readline()) == status
            assert gone(it.family, within=0)


@pytest.mark.slow
def test_a_stub_needs_no_gateway_to_end_its_family(gone: Callable[..., bool], tmp_path: Path) -> None:
    with held(tmp_path / "pids") as it:
        it.process.send_signal(signal.SIGSTOP)
        it.kill("outer")
        assert gone(it.family)


@pytest.mark.slow
def test_even_without_both_stubs_and_the_gateway_the_engine_itself_ends(
    gone: Callable[..., bool], tmp_path: Path
) -> None:
    with held(tmp_path / "pids") as it:
        it.kill("gateway outer inner")
        assert gone([it.outer, it.inner, it.engine])
