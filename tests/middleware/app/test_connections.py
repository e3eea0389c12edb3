"""Clients that keep a connection waiting: with a body, a head, an answer that they do not read; and too many."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests
from running_gateway import Running
from sage_process import environment, serving
from test_protocol import connect, error_of, read_all
from upstream import Upstream, chat_chunk

from sage.middleware.app.http.connections import ClientConnection, ClientConnections, ConnectionLimits, Phase
from sage.middleware.auth.addresses import network_of
from sage.middleware.settings.settings import Api


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


PUBLIC = b"POST /auth/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"


class Waiting:
    """A connection that waits for ``phase``, of which ``bytes`` have moved."""

    def __init__(self, address: str = "10.0.0.1", phase: Phase = Phase.WORK) -> None:
        self.address = address
        self.phase = phase
        self.bytes = 0
        self.newest: object = None
        self.given_up = False

    def waits_for(self) -> Phase:
        return self.phase

    def moved(self, phase: Phase) -> int:
        return self.bytes

    def request(self) -> object:
        return self.newest

    def give_up(self, phase: Phase) -> None:
        self.given_up = True


def limits(total: int = 100, per_address: int = 100, timeout: float = 30.0) -> ConnectionLimits:
    return ConnectionLimits(total, per_address, timeout)


@pytest.mark.parametrize(
    ("phase", "bytes_a_second", "lives"),
    [
        (Phase.HEAD, 0, 30),
        (Phase.HEAD, 10_000, 30),
        (Phase.BODY, 0, 30),
        (Phase.BODY, 400, 30),
        (Phase.BODY, 600, None),
        (Phase.READING, 400, 30),
        (Phase.READING, 600, None),
        (Phase.REST, 10_000, 30),
        (Phase.IDLE, 0, 75),
        (Phase.WORK, 0, None),
    ],
)
def test_how_long_a_client_may_keep_a_connection_waiting(phase: Phase, bytes_a_second: int, lives: int | None) -> None:
    connections = ClientConnections(limits())
    one = Waiting(phase=phase)
    assert connections.admit(one, 0.0)
    connections.check(0.0)
    seconds = 0
    while not one.given_up and seconds < 200:
        seconds += 1
        one.bytes += bytes_a_second
        connections.check(float(seconds))
    assert (seconds if one.given_up else None) == lives


def test_a_burst_at_the_start_does_not_pay_for_silence_afterwards() -> None:
    connections = ClientConnections(limits())
    one = Waiting(phase=Phase.BODY)
    connections.admit(one, 0.0)
    connections.check(0.0)
    one.bytes = 30_000_000
    for second in range(1, 61):
        connections.check(float(second))
    assert one.given_up


def test_each_request_has_its_own_time() -> None:
    connections = ClientConnections(limits())
    one = Waiting(phase=Phase.HEAD)
    connections.admit(one, 0.0)
    for second in range(200):
        one.newest = object()
        connections.check(float(second))
    assert not one.given_up


def test_the_slowest_make_room_first_and_those_that_work_never() -> None:
    connections = ClientConnections(limits(total=4))
    fast, slow, idle, works = (Waiting(phase=phase) for phase in (Phase.BODY, Phase.BODY, Phase.IDLE, Phase.WORK))
    for one in (fast, slow, idle, works):
        assert connections.admit(one, 0.0)
    fast.bytes, slow.bytes = 1_000_000, 10

    def admit() -> bool:
        new = Waiting(address="10.0.0.2")
        place = connections.admit(new, 10.0)
        connections.remove(new)
        for one in (fast, slow, idle):
            if one.given_up:
                connections.remove(one)
        return place

    assert admit()
    assert (slow.given_up, fast.given_up, idle.given_up) == (True, False, False)
    connections.admit(Waiting(), 10.0)
    assert admit()
    assert (fast.given_up, idle.given_up) == (False, True)
    connections.admit(Waiting(), 10.0)
    assert admit()
    assert fast.given_up
    connections.admit(Waiting(), 10.0)
    assert not admit()
    assert not works.given_up


def test_uploads_that_flow_do_not_make_room_together() -> None:
    connections = ClientConnections(limits(total=40))
    uploads = [Waiting(phase=Phase.BODY) for _ in range(40)]
    for number, upload in enumerate(uploads):
        connections.admit(upload, 0.0)
        upload.bytes = 1_000_000 + number
    assert connections.admit(Waiting(), 10.0)
    assert [upload.given_up for upload in uploads] == [True] + [False] * 39


def test_an_address_that_has_too_many_loses_its_own() -> None:
    connections = ClientConnections(limits(total=100, per_address=10))
    other = Waiting(address="10.0.0.9", phase=Phase.BODY)
    connections.admit(other, 0.0)
    many = [Waiting(phase=Phase.BODY) for _ in range(10)]
    for one in many:
        assert connections.admit(one, 1.0)
    assert not any(one.given_up for one in many)
    assert connections.admit(Waiting(), 2.0)
    assert any(one.given_up for one in many)
    assert not other.given_up


def test_an_address_is_a_whole_network_of_ipv6() -> None:
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2:ffff::1") != network_of("2001:db8:1:3::4")
    assert network_of("::ffff:10.0.0.1") == network_of("10.0.0.1") != network_of("10.0.0.2")


def test_connections_leave_descriptors_for_the_gateway_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, total in ((256, 85), (1024, 412), (2**20, 4096)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert ConnectionLimits.of(Api()).total == total
    assert ConnectionLimits.of(Api(max_connections=10)) == ConnectionLimits(10, 5, 30.0)


def test_a_connection_is_what_the_policy_asks_for(gateway: Callable) -> None:
    running = gateway()
    one: ClientConnection
    with connect(running) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        sock.recv(65536)
        (one,) = running.server.server_state.connections
        end = time.monotonic() + 5  # the client may read the answer before the request has ended
        while one.waits_for() is not Phase.IDLE and time.monotonic() < end:
            time.sleep(0.005)
        assert (one.waits_for(), one.address) == (Phase.IDLE, "127.0.0.1")


@contextmanager
def opened(running: Running, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(running)) for _ in range(count)]
        for sock in socks:
            sock.sendall(data)
        yield socks


@pytest.mark.slow
def test_requests_that_do_not_come_are_given_up(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up, api={"client_timeout": 1})
    chat = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {running.key}\r\n".encode()
    restore = f"PUT /collections/c/snapshot HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {running.key}\r\n".encode()
    stalled = {
        "public": PUBLIC + b"Content-Length: 100\r\n\r\nuser",
        "public, nothing of it": PUBLIC + b"Content-Length: 100\r\n\r\n",
        "chunked": PUBLIC + b"Transfer-Encoding: chunked\r\n\r\n5\r\nuser",
        "hot": chat + b"Content-Length: 100\r\n\r\n{",
        "file": restore + b"Content-Length: 100\r\n\r\n{",
        "head": b"GET /health HTTP/1.1\r\nHost:",
        "line ends": b"\r\n\r\n",
    }
    no_credential = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    with ExitStack() as stack:
        socks = {}
        for name, data in {**stalled, "nothing": b"", "answered": no_credential}.items():
            socks[name] = stack.enter_context(connect(running))
            socks[name].sendall(data)
        answers = {name: read_all(sock) for name, sock in socks.items()}
    for name in stalled:
        assert answers[name].startswith(b"HTTP/1.1 408 "), name
        assert error_of(answers[name])["code"] == "request_timeout", name
    assert answers["nothing"] == b""
    assert answers["answered"].startswith(b"HTTP/1.1 401 ")
    deadline = time.monotonic() + 5
    while running.server.server_state.connections:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_body_that_trickles_is_given_up_and_one_that_flows_is_not(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up, api={"client_timeout": 1})
    head = PUBLIC + b"Content-Length: 9000\r\n\r\n"
    with connect(running) as trickling, connect(running) as flowing:
        trickling.sendall(head)
        flowing.sendall(head)
        trickling.setblocking(False)
        answer = b""
        for _ in range(45):
            flowing.sendall(b"username=" + b"x" * 191)
            with contextlib.suppress(OSError):
                trickling.send(b"x")
                answer += trickling.recv(65536)
            time.sleep(0.1)
        assert flowing.recv(65536).startswith(b"HTTP/1.1 400 ")
        assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.each_transport
@pytest.mark.slow
def test_an_answer_that_nobody_reads_ends_the_call(up: Upstream, upstreams: Callable) -> None:
    up.stream([chat_chunk("x" * 60_000) for _ in range(300)])
    running = upstreams(up, api={"client_timeout": 1})
    body = b'{"model":"bench","stream":true,"messages":[{"role":"user","content":"x"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = running.url.removeprefix("http://").split(":")
        sock.connect((host, int(port)))
        sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        deadline = time.monotonic() + 15
        up.wait_requests(1)
        while running.server.server_state.connections or running.server.server_state.tasks:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        PUBLIC + b"Content-Length: 100\r\n\r\n",
        PUBLIC + b"Content-Length: 100\r\n\r\n" + b"x" * 50,
        b"GET /health HTTP/1.1\r\n",
        b"",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_any_number_of_waiting_clients_leaves_the_gateway_alive(tmp_path: Path, data: bytes) -> None:
    """With 256 descriptors in all, and three hundred clients that keep theirs."""
    environ = environment(tmp_path / "data")
    with serving(["--port", "0"], environ, tmp_path, files=256) as server, ExitStack() as stack:
        host, port = server.url.removeprefix("http://").split(":")
        for number in range(300):
            sock = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            sock.sendall(data)
            if number % 20 == 19:
                assert requests.get(f"{server.url}/health", timeout=5).status_code == 200
        for _ in range(20):
            assert requests.get(f"{server.url}/health", timeout=5).status_code == 200
        # Its own work still finds descriptors: this opens the database of accounts.
        wrong = requests.post(f"{server.url}/auth/token", data={"username": "a", "password": "b" * 20}, timeout=10)
        assert wrong.status_code == 401
