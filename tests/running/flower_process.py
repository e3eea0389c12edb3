"""A real `sage flower` and a real `sage worker` in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from running_gateway import Running
from sage_process import SAGE

from sage.middleware.auth.principal import Scope


@contextmanager
def flower(env: Mapping[str, str], cwd: Path, *arguments: str) -> Iterator[str]:
    """``sage flower ARGUMENTS…`` from its first line, which is given, to SIGTERM, after which it ends with status 0."""
    log = cwd / "flower.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*SAGE, "flower", *arguments], env=dict(env), cwd=cwd, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert process.stdout is not None
    with process.stdout:
        try:
            line = process.stdout.readline()
            assert line, log.read_text()
            yield line.rstrip("\n")
        finally:
            _end(process, log)


def _end(process: subprocess.Popen[str], log: Path) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    assert status == 0, log.read_text()


@contextmanager
def worker(env: Mapping[str, str], cwd: Path, running: Running) -> Iterator[None]:
    """A real `sage worker` for the gateway ``running``."""
    env = {**env, "SAGE_URL": running.url, "SAGE_API_KEY": running.new_key(scopes=[Scope.WORKER])}
    with (cwd / "worker.log").open("w") as log:
        process = subprocess.Popen([*SAGE, "worker"], env=env, cwd=cwd, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def wait_for(condition: Callable[[], bool], what: str, timeout: float = 30) -> None:
    """Waits until ``condition`` holds; ``what`` says in the failure what did not come."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)
