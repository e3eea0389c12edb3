"""Jobs that a gateway's own worker had when the gateway was killed: the next gateway knows that it died, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hand_worker import HandWorker
from running_gateway import run_gateway

from sage.middleware.gateway.jobs.own_worker import own_worker_name
from sage.middleware.settings.settings import Settings


@pytest.mark.slow
def test_what_the_worker_of_a_killed_gateway_had_goes_back_at_the_next_start(tmp_path: Path) -> None:
    queue = {"embedded_worker": False}
    settings = Settings.model_validate(
        {"data_dir": tmp_path / "data", "api": {"port": 0, "access_log": False}, "queue": queue}
    )
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = own_worker_name(3).partition("@")[2]
    workers = (
        *(f"own1-{ended.pid}@gateway", f"own2-{os.getpid()}@{here}"),
        *(f"own1-{os.getppid()}@{here}", f"own3-{ended.pid}@gateway.another-machine", "elsewhere"),
    )
    with run_gateway(settings) as first:
        jobs = {}
        for worker in workers:
            body = {"model": "gemma-3-270m", "prompt": "hello"}
            job = first.post("/tasks/generate", body).json()["id"]
            assert HandWorker(first, worker).claim()["id"] == job
            jobs[worker] = job
    with run_gateway(settings) as second:
        states = [second.get(f"/tasks/{jobs[worker]}").json()["state"] for worker in workers]
    assert states == ["queued", "queued", "running", "running", "running"]  # the last three may live
