"""One address for several workers: what is refused before anything starts, and that each socket gets connections."""

from __future__ import annotations

import random
import select
import socket

import pytest

from sage.errors import ConfigError
from sage.middleware.app.gateway_server import bind
from sage.middleware.app.workers.listening import bind_all, check_workers, share_of
from sage.middleware.settings.settings import Settings


def test_more_workers_than_make_sense_are_refused() -> None:
    check_workers(1)
    check_workers(4)
    with pytest.raises(
        ConfigError, match=r"api\.workers: 1000 are more than make sense on \d+ processor\(s\): at most"
    ):
        check_workers(1000)


def test_a_port_that_is_taken_is_refused_also_if_its_owner_would_share_it() -> None:
    with bind("127.0.0.1", 0, shared=True) as taken, pytest.raises(ConfigError, match="choose another port"):
        bind_all("127.0.0.1", taken.getsockname()[1], 2)


def test_one_worker_shares_its_port_with_nobody() -> None:
    [sock] = bind_all("127.0.0.1", 0, 1)
    with sock, pytest.raises(ConfigError):
        bind("127.0.0.1", sock.getsockname()[1], shared=True)


def test_connections_are_dealt_out_to_all_sockets_of_one_port() -> None:
    sockets = bind_all("127.0.0.1", 0, 3)
    clients: list[socket.socket] = []
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        for _ in range(200):
            clients.append(socket.create_connection(sockets[0].getsockname()))
            if len(select.select(sockets, (), (), 0)[0]) == 3:
                break
        assert len(select.select(sockets, (), (), 1)[0]) == 3
    finally:
        for sock in (*clients, *sockets):
            sock.close()


def test_connections_are_divided_among_workers_with_room_for_an_uneven_hash() -> None:
    settings = Settings.model_validate({"api": {"max_connections": 5000, "max_connections_per_address": 2048}})
    share = share_of(settings, 2).api
    assert (share.max_connections, share.max_connections_per_address) == (2642, 1115)
    draw = random.Random(1)
    worst = max(draw.getrandbits(2048).bit_count() for _ in range(2000))
    assert 1024 < worst <= 1115
    few = share_of(Settings.model_validate({"api": {"max_connections": 3}}), 2).api
    assert (few.max_connections, few.max_connections_per_address) == (3, 1)
    assert share_of(settings, 1) is settings
    assert share_of(Settings(), 2).api.max_connections_per_address == 1115, "half of 4,096, as with one worker"
