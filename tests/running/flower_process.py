"""A real `sage flower` in a process of its own, and a plain Celery worker on the same broker."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sage_process import SAGE

_WORKER = """
import os, sys
from pathlib import Path
from sage.middleware.queue.celery_app import make_celery_app
from sage.middleware.settings.reading import load_settings
settings = load_settings(None, os.environ)
app = make_celery_app(settings.queue, settings.data_dir)

@app.task(name="tests.greet")
def greet(name):
    return f"hello {name}"

if sys.argv[1:] == ["send"]:
    greet.apply_async(args=["Flower"], task_id="job-for-flower", queue="tests", serializer="json")
else:
    app.worker_main(["worker", "--pool", "solo", "--loglevel", "WARNING", "-n", "greeter@tests", "-Q", "tests"])
"""


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
def plain_worker(env: Mapping[str, str], cwd: Path) -> Iterator[Callable[[], None]]:
    """A worker that knows one task, ``tests.greet``; gives a function that sends it one, ``job-for-flower``."""
    command: Sequence[str] = [sys.executable, "-c", _WORKER]
    with (cwd / "worker.log").open("w") as log:
        process = subprocess.Popen(command, env=dict(env), cwd=cwd, stdout=log, stderr=log)

    def send() -> None:
        subprocess.run([*command, "send"], env=dict(env), cwd=cwd, check=True, timeout=60)

    try:
        yield send
    finally:
        process.terminate()
        process.wait(20)


def wait_for(condition: Callable[[], bool], what: str, timeout: float = 30) -> None:
    """Waits until ``condition`` holds; ``what`` says in the failure what did not come."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)
