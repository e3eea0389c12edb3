"""Jobs that fail: the error is logged once and raised to who waits, and what precedes the failed record is printed."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from project import ROOT

from sage.api.function.base_function import BaseFunction
from sage.api.local_environment import LocalEnvironment
from sage.api.stream import Stream
from sage.kernels.runtime.streams.job import Job, JobState


def environment(**config: Any) -> LocalEnvironment:
    return LocalEnvironment("shop", {"discovery": None, **config})


def check(record: int) -> int:
    if record == 300:
        raise ValueError(f"no such item: {record}")
    return record


def failing_source() -> Iterator[int]:
    yield from map(check, range(1000))


def plus_one(record: int) -> int:
    return record + 1


PIPELINES: dict[str, Callable[[LocalEnvironment], object]] = {
    "printed behind the stage that fails": lambda env: env.from_batch(range(1000)).map(check).print(),
    "printed two stages behind": lambda env: env.from_batch(range(1000)).map(check).map(plus_one).print(),
    "printed before it": lambda env: env.from_batch(range(1000)).print().map(check),
    "printed beside it": lambda env: _beside(env.from_batch(range(1000))),
    "the source fails": lambda env: env.from_source(failing_source).map(plus_one).print(),
    "behind keys": lambda env: env.from_batch(range(1000)).keyby(plus_one).map(check, parallelism=1).print(),
    "small queues": lambda env: env.from_batch(range(1000)).map(check).map(plus_one).map(plus_one).print(),
}


def _beside(stream: Stream) -> None:
    stream.map(plus_one).filter(bool).print()
    stream.map(check)


@pytest.mark.parametrize("name", PIPELINES)
def test_what_precedes_the_failed_record_is_printed(
    name: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    env = environment(**({"queue_size": 4} if name == "small queues" else {}))
    PIPELINES[name](env)
    job = env.submit()
    with pytest.raises(ValueError, match="no such item: 300"):
        job.wait(20)
    printed = [int(line) for line in capsys.readouterr().out.split()]
    assert len(printed) >= 300
    assert printed == list(range(printed[0], printed[0] + len(printed)))
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def ended_job(env: LocalEnvironment) -> Job:
    """A job that has ended before anybody waits for it."""
    job = env.submit()
    ended = threading.Event()
    while not job.ended and not ended.wait(0.005):
        pass
    return job


def test_a_job_that_nobody_waits_for_logs_its_error_with_the_traceback(caplog: pytest.LogCaptureFixture) -> None:
    env = environment()
    env.from_batch([1, 300]).map(check, name="checked").sink(print)
    job = ended_job(env)
    [record] = caplog.records
    cause = "ValueError: no such item: 300 (raised by 'checked' for the record 300)"
    assert (record.levelname, record.getMessage()) == ("ERROR", f"the job 'shop' failed: {cause}")
    assert record.exc_info is not None
    assert record.exc_info[1] is job.error
    assert repr(job) == f"<Job 'shop': failed, {cause}>"
    for _ in range(2):
        with pytest.raises(ValueError, match="no such item: 300"):
            job.wait()
    assert len(caplog.records) == 1


class Unspeakable(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_without_a_text_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(record: int) -> int:
        raise Unspeakable

    env = environment()
    env.from_batch([1]).map(fail).sink(print)
    ended_job(env)
    [record] = caplog.records
    assert "Unspeakable: <exception str() failed> (raised by 'map' for the record 1)" in record.getMessage()


def test_an_error_that_is_raised_is_logged_without_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    env = environment()
    env.from_batch([300]).map(check).sink(print)
    with pytest.raises(ValueError, match="no such item: 300"):
        env.execute()
    [record] = caplog.records
    assert (record.levelname, record.exc_info) == ("ERROR", None)


class Failing(BaseFunction):
    """Fails where ``method`` says; its cleanup fails too after ``process``."""

    def __init__(self, method: str) -> None:
        self.method = method

    def setup(self) -> None:
        if self.method == "setup":
            raise LookupError("no table")

    def process(self, record: Any) -> Any:
        if self.method in ("process", "exit"):
            raise LookupError("no table") if self.method == "process" else SystemExit(3)
        return record

    def cleanup(self) -> None:
        if self.method in ("cleanup", "process"):
            raise LookupError("no table")


@pytest.mark.parametrize(
    ("method", "error", "cause"),
    [
        ("setup", LookupError, "LookupError: no table"),
        ("process", LookupError, "LookupError: no table (raised by 'map' for the record 1)"),
        ("cleanup", LookupError, "LookupError: no table"),
        ("exit", SystemExit, "SystemExit: 3 (raised by 'map' for the record 1)"),
    ],
)
def test_every_kind_of_failure_is_one_error(
    method: str, error: type[BaseException], cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    env = environment()
    env.from_batch([1]).map(Failing, method).sink(print)
    job = env.submit()
    with pytest.raises(error):
        job.wait(20)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"the job 'shop' failed: {cause}"]
    assert job.state is JobState.FAILED


@pytest.mark.slow
def test_a_slow_stage_does_not_keep_a_failed_job_for_long() -> None:
    env = environment(grace=0.1)
    stream = env.from_batch(range(1000))
    paused, done = threading.Event(), []
    stream.map(lambda record: paused.wait(0.05)).sink(done.append)
    stream.map(check)
    with pytest.raises(ValueError, match="no such item"):
        env.submit().wait(20)
    assert 0 < len(done) < 100


def test_a_job_that_goes_well_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    env = environment()
    env.from_batch([1, 2]).map(check).sink(print)
    job = env.submit()
    assert job.wait(20) is JobState.FINISHED
    assert repr(job) == "<Job 'shop': finished>"
    assert not caplog.records


SCRIPT = """
import sys, time
from sage.api.local_environment import LocalEnvironment

def work(record):
    if record == 3:
        raise ValueError("no such item")
    time.sleep(float(sys.argv[1]))
    return record

env = LocalEnvironment("shop", {})
env.from_batch([1, 2, 3]).map(work).print("item ")
job = env.submit()
time.sleep(float(sys.argv[2]))
"""


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.slow
def test_a_script_that_submits_and_sleeps_shows_what_was_printed_and_the_error() -> None:
    done = run_script("0", "2")
    assert done.stdout == "item 1\nitem 2\n"
    assert done.stderr.startswith(
        "the job 'shop' failed: ValueError: no such item (raised by 'map' for the record 3)\n"
    )
    assert done.stderr.endswith("ValueError: no such item\nraised by 'map' for the record 3\n")


@pytest.mark.slow
def test_a_program_that_ends_before_its_job_is_told_so() -> None:
    done = run_script("60", "0")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "the program ended while the job 'shop' was running; job.wait() and env.execute() wait for its end\n"
    )
