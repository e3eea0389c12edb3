"""The gateway's own worker lives and ends with the gateway, and comes back when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from waiting import until
from worker_gateway import KEY, WorkerGateway

from sage.middleware.app.worker_process import WorkerProcess
from sage.middleware.engines.proc_stats import descendants
from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_it_starts_when_needed_comes_back_and_ends_with_its_family(tmp_path: Path) -> None:
    gone: list[str] = []

    async def use(gateway: WorkerGateway) -> None:
        async def on_exit(name: str) -> None:
            gone.append(name)

        own = WorkerProcess(Settings(data_dir=tmp_path), KEY)
        own.on_exit = on_exit
        own.ensure()
        await asyncio.sleep(0.05)
        assert own.pid is None, "the gateway does not listen yet"
        own.reachable_at(gateway.url)
        await until(lambda: gateway.hellos)
        first = gateway.hellos[-1]["worker"]
        assert own.pid is not None
        family = descendants(own.pid)
        await until(lambda: len(descendants(own.pid or 0)) >= 5)
        family = descendants(own.pid)
        assert Path(f"/proc/{family[-1]}/environ").exists()
        for pid in family:  # whatever else is on this machine, these are ours
            os.kill(pid, signal.SIGKILL)
        await until(lambda: gone == [first])
        await until(lambda: gateway.hellos[-1]["worker"] != first)
        second = descendants(own.pid or 0)
        begin = time.monotonic()
        await own.close()
        assert time.monotonic() - begin < 5
        assert not [pid for pid in (*family, *second) if alive(pid)]
        assert gone[-1] == gateway.hellos[-1]["worker"]
        own.ensure()
        await asyncio.sleep(0.05)
        assert own.pid is None, "it has been closed"

    with WorkerGateway(tmp_path) as gateway:
        asyncio.run(use(gateway))
    assert sorted(path.name for path in (tmp_path / "queue/broker").iterdir()) == ["control", "messages"]


def test_it_ends_with_a_gateway_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from sage.middleware.app.worker_process import WorkerProcess\n"
        "from sage.middleware.settings.settings import Settings\n"
        "async def main():\n"
        "    own = WorkerProcess(Settings(data_dir=Path(sys.argv[1])), sys.argv[3])\n"
        "    own.reachable_at(sys.argv[2]); own.ensure(); await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    with WorkerGateway(tmp_path) as gateway:
        parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), gateway.url, KEY])
        try:
            gateway.wait(lambda: gateway.hellos)
            gateway.wait(lambda: len(descendants(parent.pid)) >= 6)
            family = [pid for pid in descendants(parent.pid) if pid != parent.pid]
        finally:
            parent.kill()
            parent.wait()
        gateway.wait(lambda: not any(alive(pid) for pid in family))
