"""`sage worker`: says hello as it was told to, ends with Ctrl-C, and refuses what cannot work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from worker_gateway import KEY, WorkerGateway

pytestmark = pytest.mark.slow


def command(*arguments: str, cwd: Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sage.middleware.cli.main", "worker", *arguments],
        cwd=cwd,
        env={**os.environ, "SAGE_DATA_DIR": str(cwd / "data"), **environ},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_it_serves_the_gateway_at_the_address_until_it_is_interrupted(tmp_path: Path) -> None:
    with WorkerGateway(tmp_path / "data") as gateway:
        running = command(
            "--concurrency", "3", "--queues", "bulk, default", cwd=tmp_path, SAGE_URL=gateway.url, SAGE_API_KEY=KEY
        )
        try:
            gateway.wait(lambda: len(gateway.hellos) > 1)
            hello = gateway.hellos[-1]
            assert (hello["concurrency"], hello["queues"]) == (3, ["bulk", "default"])
            running.send_signal(signal.SIGINT)
            assert running.wait(10) == 0
            assert running.stdout is not None
            said = f"worker {hello['worker']}: 3 job(s) at a time of 'bulk, default' for {gateway.url}, by {tmp_path}"
            assert running.stdout.read() == f"{said}/data/queue\n"
            assert [goodbye["worker"] for goodbye in gateway.goodbyes] == [hello["worker"]]
        finally:
            running.kill()
            running.communicate()


def test_what_cannot_work_is_one_line(tmp_path: Path) -> None:
    with WorkerGateway(tmp_path) as gateway:
        (tmp_path / "amqp.yaml").write_text("queue: {broker: 'amqp://user:s3cret@host'}")
        for arguments, environ, status, said in (
            ((), {"SAGE_API_KEY": "wrong"}, 1, "refuses this worker (401): SAGE_API_KEY is to be a key with the scope"),
            ((), {}, 1, "sage: a worker needs a key: put one with the scope 'worker' into SAGE_API_KEY"),
            (("--queues", "a/b"), {"SAGE_API_KEY": KEY}, 2, "names of queues have letters"),
            (
                ("--config", "amqp.yaml"),
                {"SAGE_API_KEY": KEY},
                1,
                "sage: queue.broker is not the URL of a Redis",
            ),
        ):
            ran = command(*arguments, cwd=tmp_path, SAGE_URL=gateway.url, **environ)
            _, error = ran.communicate(timeout=20)
            assert ran.returncode == status
            assert said in error
            assert "s3cret" not in error
            assert "Traceback" not in error
