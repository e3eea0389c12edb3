"""Services on Ray beside other processes that want every processor several times over: it takes longer, and works.

With full counts only: it takes the processors from all other tests. What it looks at is looked at by
``test_ray_services.py`` without such company, and the patience that contention gives by ``test_ray_patience.py``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_ray_services import Store, wait_for

from sage.api.ray_environment import RayEnvironment
from sage.processors import contention

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.skipif(
        not os.environ.get("SAGE_TEST_FULL"), reason="it takes every processor: SAGE_TEST_FULL=1 runs it"
    ),
]
SECONDS = 120.0
EACH = 2
"""Busy processes for each processor."""


@contextmanager
def busy_machine() -> Iterator[None]:
    """Ends with the block; each process ends by itself too, if the test is killed."""
    loop = f"import time\nend = time.monotonic() + {3 * SECONDS}\nwhile time.monotonic() < end: pass"
    command = [sys.executable, "-S", "-c", loop]
    processes = [subprocess.Popen(command) for _ in range(EACH * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


def test_replicas_choice_death_and_recovery_beside_other_work(ray_config: dict[str, Any], tmp_path: Path) -> None:
    environment = RayEnvironment("busy", {**ray_config, "ray": {**ray_config["ray"], "start_timeout": 60.0}})
    environment.register_service("three", Store, replicas=3)
    with busy_machine():
        wait_for(lambda: contention() > 1.5)
        with environment as env:
            three, soon = env.call_service["three"], env.call_service_async["three"]
            pids = {three.pid() for _ in range(12)}
            assert len(pids) == 3, "idle replicas are asked in turns"
            blocked = [soon.block(tmp_path / f"in{n}", tmp_path / "go") for n in range(2)]
            busy = {int(until(lambda n=n: _read(tmp_path / f"in{n}"))) for n in range(2)}
            assert len(busy) == 2, "the second call goes to another replica"
            (idle,) = pids - busy
            assert {three.pid() for _ in range(6)} == {idle}, "the least loaded is chosen"
            (tmp_path / "go").touch()
            assert {call.result() for call in blocked} == busy
            os.kill(idle, signal.SIGKILL)
            until(lambda: _after_death(three, idle, pids))
            described = until(lambda: next(one for one in env.services() if one["health"].get("healthy")))
            assert described["health"]["replicas_answering"] == 3


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _after_death(three: Any, dead: int, pids: set[int]) -> bool:
    """Whether three replicas answer again, one of them new."""
    now = {three.options(retries=20, timeout=SECONDS).pid() for _ in range(12)}
    return len(now) == 3 and dead not in now and len(now & pids) == 2
