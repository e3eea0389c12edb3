"""Commits that many threads share: each write gets its own answer, and no answer comes before the commit."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sage.sqlite import group_commit
from sage.sqlite.connection import open_wal, write_transaction
from sage.sqlite.group_commit import LeaderCommit, QueuedWrite, ThreadCommit, WriterClosed, run_each


class Insert(QueuedWrite):
    def __init__(self, value: Any, weight: int = 1, hook: Callable[[], None] = lambda: None) -> None:
        super().__init__(weight)
        self.value = value
        self.hook = hook


class Numbers:
    """A table of unique numbers, and the groups that were written to it."""

    def __init__(self, path: Path) -> None:
        self.connection = open_wal(path, busy_seconds=5)
        self.connection.execute("CREATE TABLE numbers (n INTEGER UNIQUE)")
        self.groups: list[list[Any]] = []

    def insert(self, write: Insert) -> Any:
        write.hook()
        self.connection.execute("INSERT INTO numbers VALUES (?)", (write.value,))
        return write.value * 10

    def commit(self, group: list[Insert]) -> None:
        self.groups.append([write.value for write in group])
        with write_transaction(self.connection):
            run_each(self.connection, group, self.insert)
        for write in group:
            write.answer()

    def stored(self) -> list[int]:
        return [n for (n,) in self.connection.execute("SELECT n FROM numbers ORDER BY rowid")]


@pytest.fixture
def numbers(tmp_path: Path) -> Iterator[Numbers]:
    made = Numbers(tmp_path / "numbers.sqlite")
    with closing(made.connection):
        yield made


@pytest.fixture
def thread_commit(numbers: Numbers) -> Iterator[ThreadCommit[Insert]]:
    writer = ThreadCommit(numbers.commit, "writer", max_weight=4, gather_seconds=0.002)
    yield writer
    writer.close()


@pytest.fixture(params=["leader", "thread"])
def writer(
    request: pytest.FixtureRequest, numbers: Numbers, thread_commit: ThreadCommit[Insert]
) -> LeaderCommit[Insert] | ThreadCommit[Insert]:
    return LeaderCommit(numbers.commit) if request.param == "leader" else thread_commit


Writer = LeaderCommit[Insert] | ThreadCommit[Insert]


def test_a_write_returns_its_result_once_it_is_stored(writer: Writer, numbers: Numbers) -> None:
    assert writer.run(Insert(7)) == 70
    assert numbers.stored() == [7]
    assert not numbers.connection.in_transaction


def test_many_threads_lose_nothing(writer: Writer, numbers: Numbers) -> None:
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda n: writer.run(Insert(n)), range(400)))
    assert results == [n * 10 for n in range(400)]
    assert sorted(numbers.stored()) == list(range(400))
    assert max(len(group) for group in numbers.groups) > 1


def test_the_error_of_one_write_is_its_own(writer: Writer, numbers: Numbers) -> None:
    writer.run(Insert(1))
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(writer.run, Insert(2, hook=hold))
        assert entered.wait(30)
        others = []
        for n in (3, 1, 4):
            others.append(pool.submit(writer.run, Insert(n)))
            while writer.waiting < len(others):
                threading.Event().wait(0.001)
        go_on.set()
        assert first.result() == 20
        assert isinstance(others[1].exception(), sqlite3.IntegrityError)
        assert [others[0].result(), others[2].result()] == [30, 40]
    assert numbers.groups == [[1], [2], [3, 1, 4]]
    assert numbers.stored() == [1, 2, 3, 4]


def test_a_database_that_fails_undoes_the_group_and_every_caller_hears_of_it(writer: Writer, numbers: Numbers) -> None:
    def fail() -> None:
        numbers.connection.execute("INSERT INTO missing VALUES (1)")

    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        writer.run(Insert(1, hook=fail))
    assert writer.run(Insert(2)) == 20
    assert numbers.stored() == [2]


def test_a_task_runs_between_two_commits(writer: Writer, numbers: Numbers) -> None:
    writer.run(Insert(1))
    assert writer.run_between(lambda: (numbers.connection.in_transaction, numbers.stored())) == (False, [1])
    with pytest.raises(ZeroDivisionError):
        writer.run_between(lambda: 1 // 0)
    assert writer.run(Insert(2)) == 20


def test_a_group_has_a_largest_weight_and_tasks_keep_their_place(
    thread_commit: ThreadCommit[Insert], numbers: Numbers
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(thread_commit.run, Insert(0, hook=hold))]
        assert entered.wait(30)
        steps: list[Callable[[], Any]] = [
            lambda: thread_commit.run(Insert(1, weight=2)),
            lambda: thread_commit.run(Insert(2, weight=2)),
            lambda: thread_commit.run(Insert(3, weight=1)),
            lambda: thread_commit.run_between(lambda: numbers.groups.append(["task"])),
            lambda: thread_commit.run(Insert(4, weight=9)),
            lambda: thread_commit.run(Insert(5)),
        ]
        for number, step in enumerate(steps, 1):
            calls.append(pool.submit(step))
            while thread_commit.waiting < number:
                threading.Event().wait(0.001)
        go_on.set()
        for call in calls:
            call.result()
    assert numbers.groups == [[0], [1, 2], [3], ["task"], [4], [5]]


def test_closing_waits_for_what_is_queued_and_refuses_what_comes_later(
    thread_commit: ThreadCommit[Insert], numbers: Numbers
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(thread_commit.run, Insert(1, hook=hold))
        assert entered.wait(30)
        second = pool.submit(thread_commit.run, Insert(2))
        while not thread_commit.waiting:
            threading.Event().wait(0.001)
        closing_call = pool.submit(thread_commit.close)
        go_on.set()
        closing_call.result()
        assert [first.result(), second.result()] == [10, 20]
    assert numbers.stored() == [1, 2]
    with pytest.raises(WriterClosed):
        thread_commit.run(Insert(3))


def test_what_an_interrupted_leader_took_is_written_by_the_next_one(
    numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader is interrupted when it has taken both writes and has not begun the commit."""
    writer: LeaderCommit[Insert] = LeaderCommit(numbers.commit)
    steps = [_interrupt, group_commit._commit_or_fail]
    monkeypatch.setattr(group_commit, "_commit_or_fail", lambda *args: steps.pop(0)(*args))
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(3) as pool:
        pool.submit(writer.run_between, hold)
        assert entered.wait(30)
        calls = []
        for n in (1, 2):
            calls.append(pool.submit(writer.run, Insert(n)))
            while writer.waiting < n:
                threading.Event().wait(0.001)
        go_on.set()
        outcomes = [call.exception() or call.result() for call in calls]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["KeyboardInterrupt", "int"]
    assert numbers.groups == [[1, 2]]
    assert numbers.stored() == [1, 2]


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_writer_whose_thread_could_not_be_started_tries_again(
    thread_commit: ThreadCommit[Insert], numbers: Numbers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            thread_commit.run(Insert(1))
    assert thread_commit.run(Insert(2)) == 20
    assert numbers.stored() == [2]


def test_a_commit_waits_for_all_that_were_under_way(numbers: Numbers) -> None:
    """Two callers that write again and again come into one commit, though at first one of them has to wait for a commit
    of the other."""
    writer = ThreadCommit(numbers.commit, "writer", max_weight=100, gather_seconds=5.0)
    waiting = threading.Event()

    def write(*several: int) -> None:
        for number in several:
            writer.run(Insert(number, hook=waiting.wait if number == 0 else lambda: None))

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(write, 0, 1, 2, 3)]
        while not numbers.groups:
            threading.Event().wait(0.001)
        both.append(pool.submit(write, 11, 12, 13))
        while writer.waiting < 1:
            threading.Event().wait(0.001)
        waiting.set()
        for each in both:
            each.result(30)
    writer.close()
    assert [sorted(group) for group in numbers.groups] == [[0], [1, 11], [2, 12], [3, 13]]
