"""Pipelines that do not go well: records that raise, functions that block, jobs that are stopped under load."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from project import ROOT

from sage.api.function.base_function import BaseFunction
from sage.api.local_environment import LocalEnvironment
from sage.errors import Conflict, InvalidRequest
from sage.kernels.runtime.streams.error_policy import DeadLetter, Retry
from sage.kernels.runtime.streams.job import Job, JobState, StillRunning

AT_ONCE = Retry(times=2, pause=0.0)


def environment(**config: Any) -> LocalEnvironment:
    return LocalEnvironment("test", {"discovery": None, **config})


def no_threes(record: int) -> int:
    if record % 3 == 0:
        raise ValueError(f"{record} is a multiple of three")
    return record


# Policies


def test_an_error_fails_the_job_unchanged_and_notes_the_stage_and_the_record() -> None:
    env = environment()
    env.from_batch([1, 2, 3]).map(no_threes, name="checked").sink(print)
    with pytest.raises(ValueError, match="3 is a multiple") as caught:
        env.execute()
    assert caught.value.__notes__ == ["raised by 'checked' for the record 3"]
    assert not env.services()


def test_skipped_records_are_counted() -> None:
    env = environment(on_error="skip")
    got: list[int] = []
    env.from_batch(range(1, 8)).map(no_threes, name="checked").sink(got.append)
    job = env.execute()
    assert got == [1, 2, 4, 5, 7]
    assert job.progress["skipped"] == 2
    assert job.metrics["checked"]["errors"] == 2


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("policy", ["skip", "dead letters", Retry(times=50, pause=0.0, then="skip")])
@pytest.mark.parametrize("way", ["map", "service"])
def test_no_policy_applies_to_what_ends_the_program(kind: type[BaseException], policy: Any, way: str) -> None:
    seen: list[int] = []
    letters: list[DeadLetter] = []

    def ends(record: int) -> int:
        seen.append(record)
        if record == 3:
            raise kind(record)
        return record

    class Ending:
        def end(self, record: int) -> int:
            return ends(record)

    env = environment()
    env.register_service("ending", Ending)
    stream, on_error = env.from_batch([1, 2, 3, 4]), letters.append if policy == "dead letters" else policy
    got: list[int] = []
    if way == "map":
        stream.map(ends, name="ends", on_error=on_error).sink(got.append)
    else:
        stream.through("ending", method="end", name="ends", on_error=on_error).sink(got.append)
    with pytest.raises(kind) as caught:
        env.execute()
    assert caught.value.args == (3,)
    assert "raised by 'ends' for the record 3" in caught.value.__notes__
    assert seen[:3] == [1, 2, 3]
    assert seen.count(3) == 1
    assert not letters


class StoringLetters(BaseFunction):
    """A sink of dead letters that stores them in a service."""

    def process(self, letter: DeadLetter) -> None:
        self.call_service["store"].append((letter.value, str(letter.error), letter.stage, letter.attempts))


class Store:
    def __init__(self) -> None:
        self.values: list[Any] = []

    def append(self, value: Any) -> None:
        self.values.append(value)

    def all(self) -> list[Any]:
        return self.values


@pytest.mark.parametrize(("on_error", "attempts"), [(StoringLetters, 1), (Retry(2, 0.0, then=StoringLetters()), 3)])
def test_dead_letters_go_to_their_sink_with_error_stage_and_attempts(on_error: Any, attempts: int) -> None:
    env = environment()
    env.register_service("store", Store)
    got: list[int] = []
    env.from_batch([2, 3, 4]).map(no_threes, name="checked", on_error=on_error).sink(got.append)
    with env:
        job = env.execute()
        assert env.call_service["store"].all() == [(3, "3 is a multiple of three", "checked", attempts)]
    assert got == [2, 4]
    assert job.progress["dead_letters"] == 1


def test_a_sink_of_dead_letters_that_raises_fails_the_job() -> None:
    env = environment()

    def full(letter: DeadLetter) -> None:
        raise OSError("no space left")

    env.from_batch([3]).map(no_threes, on_error=full)
    with pytest.raises(OSError, match="no space left"):
        env.execute()


def test_a_retried_record_keeps_its_place() -> None:
    env = environment()
    got: list[int] = []
    tries: dict[int, int] = {}

    def shaky(record: int) -> int:
        tries[record] = tries.get(record, 0) + 1
        if record % 2 and tries[record] < 3:
            raise ConnectionError("not yet")
        return record

    env.from_batch(range(6)).map(shaky, on_error=AT_ONCE, name="shaky").sink(got.append)
    job = env.execute()
    assert got == list(range(6))
    assert job.metrics["shaky"]["retried"] == 6


def test_a_record_that_never_works_fails_after_its_retries() -> None:
    env = environment()
    env.from_batch([3]).map(no_threes, on_error=AT_ONCE)
    with pytest.raises(ValueError, match="multiple") as caught:
        env.execute()
    assert "in 3 attempts" in caught.value.__notes__[0]


@pytest.mark.parametrize("on_error", ["ignore", 5, "drop"])
def test_an_unknown_policy_is_refused(on_error: Any) -> None:
    with pytest.raises(InvalidRequest, match="on_error of 'map' must be"):
        environment().from_batch([]).map(str, on_error=on_error)
    with pytest.raises(InvalidRequest, match="times"):
        Retry(times=0)
    with pytest.raises(InvalidRequest, match="then"):
        Retry(then="retry")


@pytest.mark.slow
@given(st.lists(st.integers(0, 9), max_size=200), st.integers(1, 4), st.integers(1, 20))
def test_no_record_is_lost_silently(records: list[int], parallelism: int, size: int) -> None:
    env = environment(queue_size=size)
    got: list[int] = []
    letters: list[int] = []
    stream = env.from_batch(records).map(no_threes, parallelism=parallelism, on_error="skip")
    stream.filter(lambda record: record != 5, parallelism=parallelism).map(
        lambda record: 10 // (record - 4), on_error=lambda letter: letters.append(letter.value)
    ).sink(got.append)
    job = env.execute()
    assert job.progress["skipped"] == sum(record % 3 == 0 for record in records)
    assert letters == [4] * records.count(4)
    assert sorted(got) == sorted(10 // (record - 4) for record in records if record % 3 and record not in (4, 5))


# Functions that block, and errors behind full queues


def test_a_sink_that_fails_behind_full_queues_ends_the_job() -> None:
    env = environment(queue_size=2)
    got: list[int] = []

    def failing(record: int) -> None:
        got.append(record)
        if len(got) == 5:
            raise OSError("disk full")

    env.from_source(itertools.count).map(str).map(len, parallelism=3).flatmap(lambda one: [one] * 10).sink(failing)
    with pytest.raises(OSError, match="disk full"):
        env.execute()


@pytest.mark.parametrize("method", ["setup", "cleanup"])
def test_a_function_whose_setup_or_cleanup_fails_fails_the_job(method: str) -> None:
    def broken(self: BaseFunction) -> None:
        raise RuntimeError(f"no {method}")

    function = type("Broken", (BaseFunction,), {method: broken, "process": lambda self, record: record})
    env = environment()
    read: list[int] = []
    env.from_source(lambda: iter(lambda: read.append(1) or len(read), 10)).map(function, parallelism=2)
    with pytest.raises(RuntimeError, match=f"no {method}"):
        env.execute()
    assert bool(read) is (method == "cleanup")


def test_a_source_that_fails_fails_the_job() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the tape is torn")

    env = environment()
    got: list[int] = []
    env.from_source(broken).sink(got.append)
    with pytest.raises(OSError, match="torn"):
        env.execute()


def test_waiting_for_a_job_ends_in_time_and_stop_names_what_still_runs() -> None:
    env = environment(grace=0.2)
    entered, leave = threading.Event(), threading.Event()

    def blocking(record: int) -> None:
        entered.set()
        leave.wait()

    env.from_batch([1, 2]).map(blocking, name="stuck")
    job = env.submit()
    assert entered.wait(30)
    with pytest.raises(TimeoutError, match="'stuck' has been in its function"):
        job.wait(0.01)
    with pytest.raises(StillRunning, match="'stuck'"):
        job.stop(timeout=0.05)
    assert job.state is JobState.STOPPING
    leave.set()
    assert job.wait(30) is JobState.STOPPED
    assert job.progress["done"] == 2


@pytest.mark.slow
def test_a_function_that_never_returns_does_not_keep_a_failed_job() -> None:
    env = environment(grace=0.1)
    entered, leave = threading.Event(), threading.Event()

    def blocking(record: int) -> None:
        entered.set()
        leave.wait()

    def failing(record: int) -> None:
        entered.wait()
        raise OSError("broken")

    numbers = env.from_batch([1])
    numbers.map(blocking)
    numbers.map(failing)
    with pytest.raises(OSError, match="broken"):
        env.execute()
    leave.set()


@pytest.mark.slow
def test_a_source_that_blocks_does_not_keep_a_job_from_stopping() -> None:
    env = environment()
    silent, leave = threading.Event(), threading.Event()
    got: list[int] = []

    def numbers() -> Iterator[int]:
        yield 1
        silent.set()
        leave.wait()
        yield 2

    env.from_source(numbers).sink(got.append)
    job = env.submit()
    assert silent.wait(30)
    job.stop(timeout=30)
    assert job.state is JobState.STOPPED
    assert got == [1]
    leave.set()


# Stopping under load


class EndlessNumbers:
    """``reached`` is set when ``enough`` numbers were read."""

    def __init__(self, enough: int) -> None:
        self.read = 0
        self.enough = enough
        self.reached = threading.Event()

    def __iter__(self) -> Iterator[int]:
        while True:
            self.read += 1
            if self.read == self.enough:
                self.reached.set()
            yield self.read


def running_job(parallelism: int) -> tuple[Job, EndlessNumbers, list[int]]:
    env = environment(queue_size=50)
    numbers, got = EndlessNumbers(500), []
    env.from_source(numbers).map(lambda number: number, parallelism=parallelism).map(str).map(int).sink(got.append)
    job = env.submit()
    assert numbers.reached.wait(30)
    return job, numbers, got


@pytest.mark.parametrize("parallelism", [1, 4])
def test_a_drained_job_has_done_all_that_it_read(parallelism: int) -> None:
    job, numbers, got = running_job(parallelism)
    job.stop(timeout=30)
    assert job.state is JobState.STOPPED
    assert sorted(got) == list(range(1, numbers.read + 1))
    job.stop()
    assert job.wait() is JobState.STOPPED


def test_a_job_that_is_not_drained_drops_what_waits_and_ends() -> None:
    job, numbers, got = running_job(2)
    job.stop(drain=False, timeout=30)
    assert job.state is JobState.STOPPED
    assert len(got) <= numbers.read
    assert job.progress["waiting"] == 0


def test_a_function_may_stop_its_job_and_not_wait_for_it() -> None:
    env = environment()
    got: list[int] = []
    jobs: list[Job] = []
    submitted = threading.Event()

    def enough(number: int) -> None:
        submitted.wait()
        got.append(number)
        if number == 10:
            with pytest.raises(Conflict, match="waits for the job's end"):
                jobs[0].wait()
            jobs[0].stop()

    env.from_source(itertools.count).sink(enough)
    jobs.append(env.submit())
    submitted.set()
    assert jobs[0].wait(30) is JobState.STOPPED
    assert got == list(range(jobs[0].progress["read"]))


def test_leaving_the_environment_ends_its_jobs_before_its_services() -> None:
    env = environment()
    env.register_service("store", Store)

    class Storing(BaseFunction):
        def process(self, record: int) -> None:
            self.call_service["store"].append(record)

    numbers = EndlessNumbers(100)
    with env:
        env.from_source(numbers).sink(Storing)
        job = env.submit()
        assert numbers.reached.wait(30)
    assert job.state is JobState.STOPPED
    assert job.progress["done"] == numbers.read
    assert env.services() == []


def test_an_instance_works_for_one_environment_at_a_time() -> None:
    class Holding(BaseFunction):
        def __init__(self) -> None:
            self.entered, self.leave = threading.Event(), threading.Event()

        def process(self, record: int) -> None:
            self.entered.set()
            self.leave.wait()

    shared, first, second = Holding(), environment(), environment()
    first.from_batch([1]).map(shared)
    second.from_batch([1]).map(shared)
    job = first.submit()
    assert shared.entered.wait(30)
    with pytest.raises(Conflict, match="works for another environment"):
        second.execute()
    shared.leave.set()
    job.wait(30)
    second.execute()


SCRIPT = """
import itertools, sys
from sage.api.local_environment import LocalEnvironment

class Service:
    def cleanup(self):
        print("cleaned up", flush=True)

env = LocalEnvironment("test", {"discovery": None, "queue_size": 10})
env.register_service("service", Service)
got = []
def take(number):
    got.append(number)
    if number == 1000:
        print("begun", flush=True)
env.from_source(itertools.count).map(lambda number: number).sink(take)
try:
    env.execute()
except KeyboardInterrupt:
    print(got == list(range(len(got))), flush=True)
"""


@pytest.mark.slow
def test_ctrl_c_stops_cleanly() -> None:
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, env=environ, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert rest.split("\n") == ["cleaned up", "True", ""]
    assert process.returncode == 0
