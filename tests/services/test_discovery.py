"""Boards on which environments and gateways announce what they run: SQLite on one machine, Redis beyond."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from valkey_server import Valkey, valkey

from sage.errors import InvalidRequest, Unavailable
from sage.kernels.runtime.discovery import SILENCE, Announcement, Board, Heartbeat, decoded, open_board

Open = Callable[[], Board]


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


def said(node: str, **more: object) -> Announcement:
    known: dict[str, object] = {"environment": "shop", "host": socket.gethostname(), "pid": os.getpid(), **more}
    return Announcement(node, services=[{"name": "kv_service", "state": "running"}], **known)  # type: ignore[arg-type]


def test_who_announces_lives_until_it_withdraws(address: str) -> None:
    first, second = open_board(address), open_board(address)
    first.announce(said("b", started_at=2.0))
    second.announce(said("a", started_at=1.0, kind="gateway"))
    living = first.living()
    assert [(one.node, one.kind) for one in living] == [("a", "gateway"), ("b", "environment")]
    assert living[1].services == [{"name": "kv_service", "state": "running"}]
    assert abs(living[0].at - time.time()) < 60
    first.announce(said("b", started_at=2.0, environment="renamed"))
    assert [one.environment for one in second.living()] == ["shop", "renamed"]
    second.withdraw("b")
    second.withdraw("never there")
    assert [one.node for one in first.living()] == ["a"]
    first.close()
    second.close()


def test_who_is_silent_is_gone_from_redis(server: Valkey) -> None:
    board = open_board(server.url)
    board.announce(said("a"))
    with server.client as client:
        assert 0 < client.pttl("sage:services:a") <= SILENCE * 1000
        client.set("sage:services:strange", b"[]")  # of another version
        client.set("other", "theirs")
        assert [one.node for one in board.living()] == ["a"]
        client.delete("sage:services:a", "sage:services:strange")
        assert board.living() == []
        assert client.get("other") == b"theirs"
    board.close()


def test_who_is_silent_or_dead_is_gone_from_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "board.sqlite"
    board = open_board(str(path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    board.announce(said("dead", pid=ended.pid))
    board.announce(said("elsewhere", pid=ended.pid, host="another-machine"))
    board.announce(said("silent"))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE announcements SET at = at - ? WHERE node = 'silent'", (SILENCE + 1,))
    connection.close()
    assert [one.node for one in board.living()] == ["elsewhere"]
    board.close()


def test_a_heartbeat_announces_and_withdraws(address: str) -> None:
    board = open_board(address)
    heartbeat = Heartbeat(address, lambda: said("a"))
    heartbeat.start()
    assert [one.node for one in board.living()] == ["a"]
    heartbeat.stop()
    assert board.living() == []
    board.close()


def test_a_board_that_cannot_be_used_is_told_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "board"
    place.mkdir()
    heartbeat = Heartbeat(str(place), lambda: said("a"))
    with caplog.at_level(logging.WARNING):
        heartbeat.start()
        heartbeat.stop()
    assert [record.message for record in caplog.records if "cannot be announced" in record.message]
    with pytest.raises(Unavailable, match="board 'board' for discovery cannot be used"):
        open_board(str(place))


@pytest.mark.slow
def test_a_frozen_redis_is_told_within_seconds_without_its_address() -> None:
    with valkey() as own:
        board = open_board(own.url)
        own.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="does not answer") as caught:
            board.living()
        assert time.monotonic() - begun < 20
        assert "127.0.0.1" not in str(caught.value)
        own.process.send_signal(signal.SIGCONT)
        board.close()


def test_a_wrong_address_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="none of Redis"):
        open_board("http://example.com")


def test_what_another_version_says_is_passed_over() -> None:
    assert decoded(b"no json") is None
    assert decoded(b'{"node": "a", "new": 1}') is None
