"""Boards on which environments and gateways announce what they run: SQLite on one machine, Redis beyond."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from valkey_server import Valkey, valkey

from sage.errors import InvalidRequest, Unavailable
from sage.kernels.runtime.discovery.board import SILENCE, Announcement
from sage.kernels.runtime.discovery.discovery import Heartbeat, open_board


@pytest.fixture(scope="module")
def server() -> Iterator[Valkey]:
    with valkey() as running:
        yield running


@pytest.fixture(params=["sqlite", "redis"])
def address(request: pytest.FixtureRequest, tmp_path: Path, server: Valkey) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "deep" / "board.sqlite")
    else:
        yield server.url
        with server.client as client:
            client.flushdb()


def announcement_of(node: str, **changes: object) -> Announcement:
    fields: dict[str, object] = {"environment": "shop", "host": socket.gethostname(), "pid": os.getpid(), **changes}
    return Announcement(node, services=[{"name": "kv_service", "state": "running"}], **fields)  # type: ignore[arg-type]


def test_an_announcement_stays_until_it_is_withdrawn(address: str) -> None:
    first, second = open_board(address), open_board(address)
    first.announce(announcement_of("b", started_at=2.0))
    second.announce(announcement_of("a", started_at=1.0, kind="gateway"))
    announcements = first.announcements()
    assert [(one.node, one.kind) for one in announcements] == [("a", "gateway"), ("b", "environment")]
    assert announcements[1].services == [{"name": "kv_service", "state": "running"}]
    assert abs(announcements[0].at - time.time()) < 60
    first.announce(announcement_of("b", started_at=2.0, environment="renamed"))
    assert [one.environment for one in second.announcements()] == ["shop", "renamed"]
    second.withdraw("b")
    second.withdraw("never there")
    assert [one.node for one in first.announcements()] == ["a"]
    first.close()
    second.close()


def test_a_silent_process_is_gone_from_redis(server: Valkey) -> None:
    board = open_board(server.url)
    board.announce(announcement_of("a"))
    with server.client as client:
        assert 0 < client.pttl("sage:services:a") <= SILENCE * 1000
        client.set("sage:services:strange", b"[]")  # of another version
        client.set("other", "foreign")
        assert [one.node for one in board.announcements()] == ["a"]
        client.delete("sage:services:a", "sage:services:strange")
        assert board.announcements() == []
        assert client.get("other") == b"foreign"
    board.close()


def test_a_silent_or_dead_process_is_gone_from_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "board.sqlite"
    board = open_board(str(path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    board.announce(announcement_of("dead", pid=ended.pid))
    board.announce(announcement_of("elsewhere", pid=ended.pid, host="another-machine"))
    board.announce(announcement_of("silent"))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE announcements SET at = at - ? WHERE node = 'silent'", (SILENCE + 1,))
    connection.close()
    assert [one.node for one in board.announcements()] == ["elsewhere"]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT node FROM announcements").fetchall() == [("elsewhere",)]
    connection.close()
    board.close()


def test_a_heartbeat_announces_and_withdraws(address: str) -> None:
    board = open_board(address)
    heartbeat = Heartbeat(address, lambda: announcement_of("a"))
    heartbeat.start()
    assert [one.node for one in board.announcements()] == ["a"]
    heartbeat.stop()
    assert board.announcements() == []
    board.close()


def test_each_heartbeat_announces_the_present_state(address: str) -> None:
    board, beats = open_board(address), threading.Semaphore(0)
    names = iter(range(1000))

    def announcement() -> Announcement:
        beats.release()
        return announcement_of("a", environment=f"shop {next(names)}")

    heartbeat = Heartbeat(address, announcement, interval=0.01)
    heartbeat.start()
    for _ in range(5):
        assert beats.acquire(timeout=10)
    (announcement,) = board.announcements()
    assert int(announcement.environment.split()[1]) >= 3
    heartbeat.stop()
    assert board.announcements() == []
    heartbeat.start()
    assert [one.node for one in board.announcements()] == ["a"]
    heartbeat.stop()
    board.close()


def test_a_board_that_comes_back_is_used_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory, beats = tmp_path / "board", threading.Semaphore(0)
    directory.write_text("in its way")
    heartbeat = Heartbeat(
        str(directory / "board.sqlite"), lambda: (beats.release(), announcement_of("a"))[1], interval=0.01
    )
    with caplog.at_level(logging.WARNING):
        heartbeat.start()
        directory.unlink()
        assert beats.acquire(timeout=10)
        assert beats.acquire(timeout=10)
    board = open_board(str(directory / "board.sqlite"))
    assert [one.node for one in board.announcements()] == ["a"]
    heartbeat.stop()
    board.close()
    assert len([record for record in caplog.records if "cannot be announced" in record.message]) == 1


def test_a_board_that_cannot_be_used_is_logged_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "board"
    directory.mkdir()
    heartbeat = Heartbeat(str(directory), lambda: announcement_of("a"), interval=0.001)
    with caplog.at_level(logging.WARNING):
        heartbeat.start()
        with pytest.raises(Unavailable):
            open_board(str(directory))
        heartbeat.stop()
    assert len([record for record in caplog.records if "cannot be announced" in record.message]) == 1
    with pytest.raises(Unavailable, match="board 'board' for discovery cannot be used"):
        open_board(str(directory))


def test_silent_processes_are_gone_also_after_the_clock_was_put_back(tmp_path: Path) -> None:
    path = tmp_path / "board.sqlite"
    board = open_board(str(path))
    board.announce(announcement_of("a", host="another-machine"))
    board.announce(announcement_of("b", host="another-machine"))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE announcements SET at = at + 3600 WHERE node = 'a'")
    connection.close()
    assert [one.node for one in board.announcements()] == ["b"]
    board.announce(announcement_of("a", host="another-machine"))
    assert {one.node for one in board.announcements()} == {"a", "b"}
    board.close()


def test_a_heartbeat_goes_on_when_its_board_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "board.sqlite"
    heartbeat = Heartbeat(str(path), lambda: announcement_of("a"), interval=0.005)
    heartbeat.start()
    for file in tmp_path.iterdir():
        file.unlink()
    end = time.monotonic() + 20
    nodes: list[str] = []
    while not nodes:
        assert time.monotonic() < end
        board = open_board(str(path))
        nodes = [one.node for one in board.announcements()]
        board.close()
    assert nodes == ["a"]
    heartbeat.stop()


def test_a_service_whose_health_is_not_json_is_announced(tmp_path: Path) -> None:
    board = open_board(str(tmp_path / "board.sqlite"))
    board.announce(replace(announcement_of("a"), services=[{"name": "kv", "health": {1: threading.Lock()}}]))
    (announcement,) = board.announcements()
    assert "lock" in announcement.services[0]["health"]["1"]
    board.close()


@pytest.mark.slow
def test_a_frozen_redis_is_an_error_within_seconds_without_its_address() -> None:
    with valkey() as own:
        board = open_board(own.url)
        own.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="does not answer") as caught:
            board.announcements()
        assert time.monotonic() - begun < 20
        assert "127.0.0.1" not in str(caught.value)
        own.process.send_signal(signal.SIGCONT)
        board.close()


def test_a_password_is_never_shown(caplog: pytest.LogCaptureFixture, server: Valkey) -> None:
    for address in ("redis://:s3cret@127.0.0.1:1/0", server.url.replace("//", "//nobody:s3cret@")):
        with caplog.at_level(logging.DEBUG):
            heartbeat = Heartbeat(address, lambda: announcement_of("a"))
            heartbeat.start()
            heartbeat.stop()
        with pytest.raises(Unavailable) as caught:
            open_board(address).announcements()
        assert "s3cret" not in caplog.text + "".join(traceback.format_exception(caught.value))


def test_a_wrong_address_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not that of a Redis server"):
        open_board("http://example.com")


def test_an_announcement_of_another_version_is_passed_over() -> None:
    assert Announcement.decoded(b"no json") is None
    assert Announcement.decoded(b'{"node": "a", "new": 1}') is None
