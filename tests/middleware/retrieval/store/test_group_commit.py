"""A commit that fails without saying whether it took place. No caller gets an answer before that is known."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sage.errors import Unavailable
from sage.middleware.retrieval.store.connections import FILE, InFiles, connect
from sage.middleware.retrieval.store.group_commit import GroupCommit
from sage.middleware.retrieval.store.store import Change, Commit, DocumentStore
from sage.middleware.retrieval.store.transaction import apply_change, was_committed
from sage.middleware.retrieval.types.documents import NewDocument, Row
from sage.middleware.settings.retrieval import CollectionOptions


class Failing(InFiles):
    """Its next commit takes place, or does not, and fails in either case. Then it may not be readable."""

    commits = True
    fails = False
    readable = True

    @contextmanager
    def writing(self) -> Iterator[Any]:
        with super().writing() as connection:
            yield _Reporting(connection, self) if self.fails else connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        if not self.readable:
            raise sqlite3.OperationalError("disk I/O error")
        with super().reading() as connection:
            yield connection


class _Reporting:
    def __init__(self, connection: sqlite3.Connection, faults: Failing) -> None:
        self._connection = connection
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *arguments: Any) -> Any:
        if statement != "COMMIT":
            return self._connection.execute(statement, *arguments)
        self._faults.fails = False
        if self._faults.commits:
            self._connection.execute(statement)
        raise sqlite3.OperationalError("disk I/O error")


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[Failing]:
    DocumentStore.create(tmp_path / "c", "c", CollectionOptions(embedder="none"), None, None, None).close()
    connections = Failing(tmp_path / "c", "c")
    yield connections
    connections.close()


def add(writer: GroupCommit, id: str, commits: list[Commit]) -> Any:
    change = Change([NewDocument(id, f"text of {id}")])
    return writer.run(lambda connection, state: apply_change(connection, state, change), commits.append)


def ids(failing: Failing) -> list[str]:
    with failing.reading() as connection:
        return [id for (id,) in connection.execute("SELECT id FROM documents ORDER BY number")]


def test_a_commit_that_took_place_is_acknowledged(failing: Failing) -> None:
    commits: list[Commit] = []
    writer = GroupCommit(failing, "c")
    failing.fails = True
    assert add(writer, "a", commits).inserted == 1
    assert add(writer, "b", commits).inserted == 1
    assert [(commit.before, commit.sequence) for commit in commits] == [(0, 1), (1, 2)]
    assert ids(failing) == ["a", "b"]
    writer.close()


def test_a_commit_that_did_not_take_place_is_refused(failing: Failing) -> None:
    commits: list[Commit] = []
    writer = GroupCommit(failing, "c")
    failing.fails, failing.commits = True, False
    with pytest.raises(Unavailable, match="nothing was written"):
        add(writer, "a", commits)
    assert add(writer, "b", commits).inserted == 1
    assert [(commit.before, commit.sequence) for commit in commits] == [(0, 1)]
    assert ids(failing) == ["b"]
    writer.close()


def test_a_write_with_an_unknown_outcome_gets_an_error_that_says_so(failing: Failing) -> None:
    commits: list[Commit] = []
    writer = GroupCommit(failing, "c")
    failing.fails, failing.readable = True, False
    with pytest.raises(Unavailable, match="it is not known whether the write is stored"):
        add(writer, "a", commits)
    failing.readable = True
    assert commits == []
    assert add(writer, "b", commits).inserted == 1
    assert [(commit.before, commit.sequence) for commit in commits] == [(1, 2)]
    writer.close()


def test_a_commit_is_recognised_though_others_followed(tmp_path: Path) -> None:
    """As if another process committed before this one has looked for its own commit."""
    store = DocumentStore.create(tmp_path / "c", "c", CollectionOptions(embedder="none"), None, None, None)
    commits: list[Commit] = []
    store.write(Change([NewDocument("a", "1"), NewDocument("b", "1")]), commits.append)
    store.write(Change([NewDocument("a", "2")]), commits.append)
    store.write(Change(delete_ids=["b"]), commits.append)
    first, second, third = commits
    with closing(connect(tmp_path / "c" / FILE)) as connection:
        (last,) = connection.execute("SELECT writer FROM collection").fetchone()
        assert was_committed(connection, last, third.before, third)
        assert was_committed(connection, "other", second.before, second)
        assert was_committed(connection, "other", third.before, third)
        foreign = Commit(second.before, second.sequence, [Row(second.sequence, "c", "2", b"{}")])
        assert not was_committed(connection, "other", foreign.before, foreign)
        assert not was_committed(connection, "other", third.before, Commit(third.before, third.sequence, [], [77]))
        later = Commit(third.sequence, third.sequence + 1, [Row(third.sequence + 1, "d", "3", b"{}")])
        assert not was_committed(connection, "other", later.before, later)
    assert first.sequence == 2
    store.close()


def test_texts_are_analysed_while_the_disk_takes_them(tmp_path: Path) -> None:
    """On another thread, and before the commit is published as the same object; not where that is not worth it."""
    store = DocumentStore.create(tmp_path / "c", "c", CollectionOptions(embedder="none"), None, None, None)
    calls: list[tuple[str, Commit, int]] = []

    def analyse(commit: Commit) -> None:
        calls.append(("analysed", commit, threading.get_ident()))

    def publish(commit: Commit) -> None:
        calls.append(("published", commit, threading.get_ident()))

    store.analyse_with(analyse)
    for _ in range(50):  # an analysis that has not begun when the disk is done is left out
        store.write(Change([NewDocument("long", "word " * 1000)]), publish)
        if len(calls) == 2:
            break
        calls.clear()
    (first, analysed, its_thread), (second, published, writers) = calls
    assert (first, second) == ("analysed", "published")
    assert analysed is published
    assert its_thread != writers
    calls.clear()
    store.write(Change([NewDocument("short", "word")]), publish)
    assert [call for call, _, _ in calls] == ["published"]
    store.close()


def test_an_analysis_that_fails_costs_no_commit(tmp_path: Path) -> None:
    store = DocumentStore.create(tmp_path / "c", "c", CollectionOptions(embedder="none"), None, None, None)
    commits: list[Commit] = []

    def analyse(commit: Commit) -> None:
        raise ValueError("no such language")

    store.analyse_with(analyse)
    assert store.write(Change([NewDocument("a", "word " * 1000)]), commits.append).inserted == 1
    assert [commit.sequence for commit in commits] == [1]
    store.close()
