"""SQLite files: opened by several processes at once, busy, full, damaged, and in their owner's hands alone."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from sage.sqlite.connection import connect, make_private_file, open_wal, switch_to_wal, write_transaction
from sage.sqlite.failures import cause_of, database_failed, is_busy, is_damaged, is_full


def count(connection: sqlite3.Connection) -> int:
    (number,) = connection.execute("SELECT count(*) FROM t").fetchone()
    return int(number)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "directory" / "a file? #1.sqlite"


def test_a_missing_file_is_made_in_wal_mode_in_a_private_directory(path: Path) -> None:
    with closing(open_wal(path, "PRAGMA synchronous = NORMAL", busy_seconds=1)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (1000,)
        assert connection.execute("PRAGMA trusted_schema").fetchone() == (0,)
    assert path.is_file()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_private_file_and_its_log_are_the_owners_alone(path: Path) -> None:
    make_private_file(path)
    with closing(connect(path, busy_seconds=1)) as connection:
        switch_to_wal(connection, 1)
        connection.execute("CREATE TABLE t (a)")
        make_private_file(path)  # a file that exists stays as it is
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
        assert len(list(path.parent.iterdir())) == 3
        assert count(connection) == 0


def test_a_missing_file_is_made_on_request_only(path: Path) -> None:
    path.parent.mkdir()
    with pytest.raises(sqlite3.OperationalError) as caught:
        connect(path, busy_seconds=1)
    assert "its files cannot be opened" in cause_of(caught.value)
    assert not path.exists()
    connect(path, busy_seconds=1, create=True).execute("CREATE TABLE t (a)").connection.close()
    assert path.exists()


def test_a_wrong_pragma_leaves_no_connection_open(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        open_wal(path, "PRAGMA synchronous =", busy_seconds=1)
    path.unlink()
    path.parent.rmdir()  # no log is left beside it


@pytest.mark.slow
def test_processes_that_open_a_new_file_at_once_all_reach_wal(path: Path) -> None:
    program = (
        "import sys, pathlib\nfrom sage.sqlite.connection import open_wal, write_transaction\nsys.stdin.readline()\n"
        "connection = open_wal(pathlib.Path(sys.argv[1]), busy_seconds=30)\n"
        "connection.execute('CREATE TABLE IF NOT EXISTS t (a)')\n"
        "for number in range(20):\n"
        "    with write_transaction(connection):\n"
        "        (last,) = connection.execute('SELECT max(a) FROM t').fetchone()\n"
        "        connection.execute('INSERT INTO t VALUES (?)', ((last or 0) + 1,))\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0] * 4
    with closing(connect(path, busy_seconds=1)) as connection:
        assert connection.execute("SELECT count(*), max(a) FROM t").fetchone() == (80, 80)


def test_the_switch_to_wal_waits_for_another_connection(path: Path) -> None:
    path.parent.mkdir()
    with (
        closing(connect(path, busy_seconds=0, create=True)) as writer,
        closing(connect(path, busy_seconds=0)) as second,
    ):
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as caught:
            switch_to_wal(second, 0.05)
        assert is_busy(caught.value)
        timer = threading.Timer(0.05, lambda: writer.execute("COMMIT"))
        timer.start()
        switch_to_wal(second, 30)
        timer.join()
        assert second.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_write_waits_for_a_busy_writer_and_then_gives_up(path: Path) -> None:
    with closing(open_wal(path, busy_seconds=30)) as first, closing(connect(path, busy_seconds=0.05)) as second:
        first.execute("CREATE TABLE t (a)")
        with write_transaction(first):
            first.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(sqlite3.OperationalError) as caught, write_transaction(second):
                raise AssertionError("the write lock was not asked for at the start")
            assert is_busy(caught.value)
            assert cause_of(caught.value) == "another process keeps its database locked; try again"
            assert count(second) == 0  # a reader waits for nobody
        assert not second.in_transaction
        with write_transaction(second):
            second.execute("INSERT INTO t VALUES (2)")
            timer = threading.Timer(0.05, lambda: second.execute("COMMIT"))
            timer.start()
            with write_transaction(first):
                first.execute("INSERT INTO t VALUES (3)")
            timer.join()
            second.execute("BEGIN")
        assert count(first) == 3


def test_an_error_undoes_the_whole_transaction(path: Path) -> None:
    with closing(open_wal(path, busy_seconds=1)) as connection:
        connection.execute("CREATE TABLE t (a UNIQUE)")
        with suppress(ZeroDivisionError), write_transaction(connection):
            connection.execute("INSERT INTO t VALUES (1)")
            raise ZeroDivisionError
        with pytest.raises(sqlite3.IntegrityError) as caught, write_transaction(connection):
            connection.executemany("INSERT INTO t VALUES (?)", [(1,), (1,)])
        assert not database_failed(caught.value)
        assert not connection.in_transaction
        assert count(connection) == 0


def test_a_full_disk_undoes_the_transaction_and_is_recognised(path: Path) -> None:
    with closing(open_wal(path, busy_seconds=1)) as connection:
        connection.execute("CREATE TABLE t (a)")
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")  # SQLite answers as for a full disk
        with pytest.raises(sqlite3.OperationalError) as caught, write_transaction(connection):
            connection.executemany("INSERT INTO t VALUES (zeroblob(?))", [(1,), (1_000_000,)])
        assert is_full(caught.value)
        assert database_failed(caught.value)
        assert cause_of(caught.value).startswith("the disk is full; free some space")
        assert not connection.in_transaction
        with write_transaction(connection):
            connection.execute("INSERT INTO t VALUES (2)")
        assert connection.execute("SELECT a FROM t").fetchall() == [(2,)]


def test_a_file_that_may_only_be_read_is_recognised(path: Path) -> None:
    with closing(open_wal(path, busy_seconds=1)) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("PRAGMA query_only = ON")
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("INSERT INTO t VALUES (1)")
        assert cause_of(caught.value).startswith("its files cannot be written")


def test_a_file_that_is_no_database_is_recognised_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"my notes\n" * 1000)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        open_wal(path, busy_seconds=1)
    assert is_damaged(caught.value)
    assert path.read_bytes() == b"my notes\n" * 1000


def test_a_damaged_page_is_recognised(path: Path) -> None:
    with closing(open_wal(path, busy_seconds=1)) as connection, write_transaction(connection):
        connection.execute("CREATE TABLE t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [("text " * 100,)] * 200)
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 4 * 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    with closing(connect(path, busy_seconds=1)) as connection, pytest.raises(sqlite3.DatabaseError) as caught:
        connection.execute("SELECT sum(length(a)) FROM t").fetchall()
    assert is_damaged(caught.value)
    assert database_failed(caught.value)


def test_a_failure_without_advice_of_its_own_keeps_what_sqlite_says(path: Path) -> None:
    with closing(connect(None, busy_seconds=1)) as connection, pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("SELECT * FROM missing")
    assert cause_of(caught.value).startswith("its database failed (SQLITE_ERROR: no such table: missing)")
    assert cause_of(OSError("no device")) == "no device"
