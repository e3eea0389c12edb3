"""A gateway with accounts and one without, one after the other on one data directory: each does its own users' jobs."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from hand_worker import HandWorker
from running_gateway import Running, run_gateway

from sage.middleware.settings.settings import Settings

pytestmark = pytest.mark.slow
BODY = {"model": "gemma-3-270m", "prompt": "hello"}


def settings(directory: Path, accounts: bool) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": directory / "data",
            "api": {"port": 0, "access_log": False},
            "auth": {"enabled": accounts},
            "queue": {"embedded_worker": False},
        }
    )


def submit(running: Running) -> str:
    answer = running.post("/tasks/generate", BODY)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def state(running: Running, job_id: str) -> Any:
    return running.get(f"/tasks/{job_id}").json()["state"]


def messages(worker: HandWorker, seconds: float) -> set[str]:
    """The jobs of all messages that come within ``seconds``."""
    found, end = set(), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(AssertionError):
            found.add(worker.message(wait=left)["id"])
    return found


def test_neither_ends_the_jobs_of_the_others_users(tmp_path: Path) -> None:
    with run_gateway(settings(tmp_path, True)) as running:
        of_root = submit(running)
        message = HandWorker(running).message()
        assert message["id"] == of_root
    HandWorker(running).drop_messages()  # on a busy machine it has come again
    with run_gateway(settings(tmp_path, False)) as running:
        of_local, worker = submit(running), HandWorker(running)
        error = worker.claim(message, status=409)["error"]  # a message that the broker still had
        assert error["code"] == "not_claimable"
        assert worker.message()["id"] == of_local
        assert messages(worker, 1.5) <= {of_local}  # which comes again after three seconds, on a busy machine
    worker.drop_messages()
    with run_gateway(settings(tmp_path, True)) as running:
        worker = HandWorker(running)
        assert worker.claim()["id"] == of_root
        assert messages(worker, 1.5) <= {of_root}
        assert state(running, of_root) == "running"
    with run_gateway(settings(tmp_path, False)) as running:
        assert state(running, of_local) == "queued"
        assert HandWorker(running).claim()["id"] == of_local
