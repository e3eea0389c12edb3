"""One client's connection: bounded heads, our envelope for what is no HTTP, departures behind pipelined requests."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from running_gateway import Running
from upstream import Upstream, chat_chunk

from sage.middleware.app.http.protocol import MAX_HEAD


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running_door(module_gateway: Callable[..., Running]) -> Running:
    """A gateway that the tests do not change."""
    return module_gateway()


def connect(running) -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def read_all(sock: socket.socket) -> bytes:
    got = b""
    try:
        while piece := sock.recv(65536):
            got += piece
    except ConnectionError:
        pass
    return got


def error_of(answer: bytes) -> dict:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


@pytest.mark.parametrize("line", [b"x-pad: " + b"y" * 1000 + b"\r\n", b""])
def test_a_head_is_bounded(gateway: Callable, line: bytes) -> None:
    with connect(gateway()) as sock:
        sock.sendall(b"GET /health" + (b"" if line else b"?" + b"y" * (MAX_HEAD + 100)) + b" HTTP/1.1\r\nhost: x\r\n")
        if line:
            for _ in range(MAX_HEAD // 1000 + 2):
                try:
                    sock.sendall(line)
                except ConnectionError:
                    break
        answer = read_all(sock)
    if answer:  # a reset may have overtaken it
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert error_of(answer)["code"] == "head_too_large"
    else:
        assert line


def test_a_large_but_allowed_head_is_served(gateway: Callable) -> None:
    with connect(gateway()) as sock:
        pad = b"".join(b"x-%d: %s\r\n" % (number, b"y" * 1000) for number in range(50))
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + pad + b"\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 200 ")


def test_a_body_does_not_count_as_head(up: Upstream, upstreams: Callable) -> None:
    assert upstreams(up).chat(filler="x" * 300_000).status_code == 200


def test_an_invalid_http_request_gets_the_envelope(gateway: Callable) -> None:
    with connect(gateway()) as sock:
        sock.sendall(b"SSH-2.0-OpenSSH\r\n\r\n")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert error_of(answer)["code"] == "invalid_http"


_CHUNKED = "POST {path} HTTP/1.1\r\nhost: x\r\n{credential}transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "transfer_encoding"),
        (b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "transfer_encoding"),
        (b"Transfer-Encoding: chunked, gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "invalid_http"),
        (b"Transfer-Encoding: identity\r\n\r\n", "transfer_encoding"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "invalid_http"),
        (b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "invalid_http"),
        (b"Content-Length: -1\r\n\r\n", "invalid_http"),
        (b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n", "upgrade_refused"),
        (b"Upgrade: WebSocket\r\n\r\n", "upgrade_refused"),
    ],
)
def test_what_leaves_the_end_of_a_body_open_is_refused(running_door: Running, request_bytes: bytes, code: str) -> None:
    with connect(running_door) as sock:
        sock.sendall(b"POST /auth/refresh HTTP/1.1\r\nHost: x\r\n" + request_bytes)
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert error_of(answer)["code"] == code
    assert b"\r\nx-request-id: " in answer
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1 400") == 1


@pytest.mark.parametrize("path", ["/auth/refresh", "/v1/chat/completions", "/collections/c/documents"])
@pytest.mark.parametrize("chunks", ["zz\r\nhello\r\n0\r\n\r\n", "5\r\nhelloXX\r\n0\r\n\r\n", "-1\r\n"])
def test_malformed_chunks_get_an_answer(running_door: Running, path: str, chunks: str) -> None:
    credential = f"authorization: Bearer {running_door.key}\r\n"
    with connect(running_door) as sock:
        sock.sendall((_CHUNKED.format(path=path, credential=credential) + chunks).encode())
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert error_of(answer)["code"] == "invalid_http"
    assert answer.count(b"HTTP/1.1 400") == 1


@pytest.mark.parametrize(
    "host", ["", "Host:\r\n", "Host: a b\r\n", "Host: me@x\r\n", "Host: x/y\r\n", "Host: x:y\r\n", "Host: \xfc\r\n"]
)
def test_a_request_names_a_valid_host(running_door: Running, host: str) -> None:
    with connect(running_door) as sock:
        sock.sendall(f"GET /health HTTP/1.1\r\n{host}connection: close\r\n\r\n".encode())
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert error_of(answer)["code"] == "invalid_host"


@pytest.mark.parametrize("head", ["1.0\r\n", "1.1\r\nHost: [::1]:80\r\n", "1.1\r\nHost: xn--q.x-y.z\r\n"])
def test_hosts_that_are_served(running_door: Running, head: str) -> None:
    with connect(running_door) as sock:
        sock.sendall(f"GET /health HTTP/{head}connection: close\r\n\r\n".encode())
        assert read_all(sock).startswith(b"HTTP/1.1 200 ")


def test_another_upgrade_is_ignored_as_http_allows_unless_it_would_cost_the_body(running_door: Running) -> None:
    """Java's client asks every server for HTTP/2 with its first request."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    with connect(running_door) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in answer
    with connect(running_door) as sock:
        sock.sendall(b"POST /auth/refresh HTTP/1.1\r\nHost: x\r\n" + upgrade + b"Content-Length: 2\r\n\r\n{}")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert error_of(answer)["code"] == "upgrade_refused"


def test_what_is_no_request_is_in_the_log_as_one_line_of_json(gateway: Callable) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as log:
        running = gateway(api={"access_log": True})
        sent = [
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"GET /health?token=secret HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            b"POST /auth/refresh HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"GET /models HTTP/1.1\r\n\r\n",
        ]
        ids = []
        for data in sent:
            with connect(running) as sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                ids.append(read_all(sock).partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode())
        deadline = time.monotonic() + 20
        while log.getvalue().count("\n") < len(sent):
            assert time.monotonic() < deadline, log.getvalue()
            time.sleep(0.005)
        lines = {line["request_id"]: line for line in map(json.loads, log.getvalue().splitlines())}
    assert [(lines[id]["method"], lines[id]["path"], lines[id]["status"], lines[id]["error"]) for id in ids] == [
        ("", "", 400, "invalid_http"),
        ("GET", "/health", 400, "upgrade_refused"),
        ("POST", "/auth/refresh", 400, "invalid_http"),
        ("GET", "/models", 400, "invalid_host"),
    ]


@pytest.mark.slow
def test_pipelined_requests_are_answered_in_order(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    up.reply({"choices": [{"message": {}}]}, delay=0.2, times=1)
    with connect(running) as sock:
        body = b'{"model":"bench","messages":[{"role":"user","content":"x"}]}'
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
        sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        sock.sendall(b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = read_all(sock)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


def test_a_disconnect_behind_a_pipelined_request_ends_the_call(up: Upstream, upstreams: Callable) -> None:
    up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
    running = upstreams(up)
    with connect(running) as sock:
        body = b'{"model":"bench","stream":true,"messages":[{"role":"user","content":"x"}]}'
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
        sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        up.wait_requests(1)
        got = b""
        while b"one" not in got:
            got += sock.recv(65536)
    left = time.monotonic()
    assert up.wait_closed(10).closed_at - left < 3.0


def test_an_answer_without_a_body_is_sent(gateway: Callable) -> None:
    """Heads wait for the first piece of their body, also where none comes; the next request is not held up."""
    with connect(gateway()) as sock:
        sock.sendall(b"HEAD /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert read_all(sock).endswith(b'{"status":"ok"}')


def test_a_client_that_waits_for_100_continue_gets_it(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    body = b'{"model":"bench","messages":[{"role":"user","content":"x"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
    with connect(running) as sock:
        sock.sendall(f"{head}expect: 100-continue\r\ncontent-length: {len(body)}\r\n\r\n".encode())
        assert sock.recv(65536).startswith(b"HTTP/1.1 100 ")
        sock.sendall(body)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_head_requests_have_no_body(gateway: Callable) -> None:
    with connect(gateway()) as sock:
        sock.sendall(b"HEAD /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b""


def test_no_redirect_is_made_from_the_host_header(gateway: Callable) -> None:
    with connect(gateway()) as sock:
        sock.sendall(b"GET /models/ HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 404 ") or answer.startswith(b"HTTP/1.1 401 ")
    assert b"evil.example" not in answer


def test_a_disconnect_reaches_the_stream_between_two_requests(up: Upstream, upstreams: Callable) -> None:
    up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
    running = upstreams(up)
    body = b'{"model":"bench","stream":true,"messages":[{"role":"user","content":"x"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
    health = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    with connect(running) as sock:
        sock.sendall(health + f"{head}content-length: {len(body)}\r\n\r\n".encode() + body + health)
        got = b""
        while b"one" not in got:
            got += sock.recv(65536)
    left = time.monotonic()
    assert up.wait_closed(10).closed_at - left < 3.0


@pytest.mark.parametrize("trailer", ["authorization: Bearer {key}", "host: localhost"])
def test_trailers_are_no_headers(up: Upstream, upstreams: Callable, trailer: str) -> None:
    running = upstreams(up, api={"allowed_hosts": ["localhost"]})
    host = "evil.example" if trailer.startswith("host") else "localhost"
    credential = f"authorization: Bearer {running.key}\r\n" if trailer.startswith("host") else ""
    body = b'{"model":"bench","messages":[{"role":"user","content":"x"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\n{credential}transfer-encoding: chunked\r\n\r\n"
    end = f"0\r\n{trailer.format(key=running.key)}\r\n\r\n"
    with connect(running) as sock:
        sock.sendall(head.encode() + b"%x\r\n%b\r\n" % (len(body), body) + end.encode())
        answer = sock.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 " if trailer.startswith("host") else b"HTTP/1.1 401 ")
    assert up.requests == []


def test_two_hosts_are_refused(gateway: Callable) -> None:
    with connect(gateway()) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_the_end_of_a_body_does_not_count_as_the_next_head(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    body = json.dumps({"model": "bench", "messages": [{"role": "user", "content": "x"}], "pad": "y" * 200_000}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
    with connect(running) as sock:
        sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body + b"GET /health HTTP/1.")
        time.sleep(0.1)  # so that half a head stands behind the body in what is read
        sock.sendall(b"1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = read_all(sock)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200"]


def test_nonsense_behind_a_running_stream_is_not_written_into_it(up: Upstream, upstreams: Callable) -> None:
    up.stream([chat_chunk("one"), chat_chunk("two")], hang_after=1)
    running = upstreams(up)
    body = b'{"model":"bench","stream":true,"messages":[{"role":"user","content":"x"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
    with connect(running) as sock:
        sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        got = b""
        while b"one" not in got:
            got += sock.recv(65536)
        sock.sendall(b"\x00nonsense\r\n\r\n")
        got += read_all(sock)
    assert got.count(b"HTTP/1.1 ") == 1


def test_nonsense_behind_a_whole_request_does_not_cost_its_answer(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    body = b'{"model":"bench","messages":[{"role":"user","content":"x"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.key}\r\n"
    with connect(running) as sock:
        sock.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body + b"XXXXGET /health HTTP/1.1\r\n\r\n")
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close\r\n" in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["choices"]


@pytest.mark.parametrize(
    ("target", "status"),
    [("http://x:1/health", b"200"), ("HTTP://X:1/health?a", b"200"), ("http://evil.example/health", b"400")],
)
def test_a_target_names_the_host_of_the_header_or_none(running_door: Running, target: str, status: bytes) -> None:
    with connect(running_door) as sock:
        sock.sendall(f"GET {target} HTTP/1.1\r\nhost: x:1\r\nconnection: close\r\n\r\n".encode())
        answer = read_all(sock)
    assert answer[9:12] == status
    if status == b"400":
        assert error_of(answer)["code"] == "host_not_allowed"
