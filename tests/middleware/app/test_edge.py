"""What stands before every route: sizes, hosts, request ids, headers, the access log, the open door of --no-auth."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import requests
from upstream import Upstream

from sage.middleware.app.access_log import AccessLog, readable

pytestmark = pytest.mark.slow  # nearly each test starts a gateway, or has several threads


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


def raw(running, data: bytes) -> bytes:
    """Sends bytes and reads until the server closes or is silent."""
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(data)
        got = b""
        try:
            while piece := sock.recv(65536):
                got += piece
        except TimeoutError:
            pass
        return got


def test_a_body_over_the_limit_is_refused_before_it_is_read(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up, api={"max_body_bytes": 1000})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {running.key}\r\n"
    answer = raw(running, f"{head}Content-Length: 1001\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"payload_too_large"' in answer
    assert b"api.max_body_bytes" in answer
    # Without a length the bytes are counted as they come.
    chunk = b"x" * 600
    piece = b"258\r\n" + chunk + b"\r\n"
    answer = raw(running, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + piece * 2 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    answer = raw(running, b"POST /auth/refresh HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + piece * 2)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert up.requests == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b'{"messages": []}', "'model' must name a model"),
        (b'{"model": 7}', "'model' must name a model"),
        (b'{"model": "bench", "messages": [], "stream": false}', "'messages' must be a list"),
        (b'{"model": "bench", "messages": [{"role": "user"}], "stream": "yes"}', "'stream' must be true or false"),
        (b'\xff\xfe{"model": "bench"}', "not JSON"),
    ],
)
def test_malformed_bodies_are_400(up: Upstream, upstreams: Callable, body: bytes, message: str) -> None:
    running = upstreams(up)
    url = f"{running.url}/v1/chat/completions"
    answer = requests.post(url, data=body, headers=running.headers(), timeout=10)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert up.requests == []


def test_framework_routes_answer_with_the_same_envelope(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    bad = requests.post(f"{running.url}/auth/refresh", json={"refresh": 1}, timeout=10)
    assert bad.status_code == 400
    assert set(bad.json()["error"]) == {"message", "type", "param", "code"}
    assert "refresh" in bad.json()["error"]["param"]
    missing = requests.get(f"{running.url}/nothing/here", timeout=10)
    assert missing.status_code == 404
    assert missing.json()["error"]["message"] == "there is no route /nothing/here; /docs lists the routes"
    wrong = requests.get(f"{running.url}/generate", timeout=10)
    assert wrong.status_code == 405
    assert wrong.json()["error"]["code"] == "method_not_allowed"
    garbage = requests.post(
        f"{running.url}/auth/refresh", data=b"{", headers={"content-type": "application/json"}, timeout=10
    )
    assert garbage.status_code == 400
    assert garbage.json()["error"]["code"] == "invalid_json"


def test_request_ids(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    assert running.chat(headers={"x-request-id": "abc.DEF-1"}).headers["x-request-id"] == "abc.DEF-1"
    request_ids = {
        running.chat(headers={"x-request-id": bad}).headers["x-request-id"] for bad in ("a b", "x" * 129, "é")
    }
    assert len(request_ids) == 3
    assert not request_ids & {"a b", "x" * 129, "é"}
    assert requests.get(f"{running.url}/nothing", timeout=5).headers["x-request-id"]


def test_requests_of_a_connection_have_ids_of_their_own_and_say_it_where_they_differ(
    up: Upstream, upstreams: Callable
) -> None:
    running = upstreams(up)
    ids, seen = [], []
    # One connection, and the same head but for what is given here.
    for headers in ({}, {}, {"x-request-id": "mine"}, {"x-request-id": "mine"}, {}, {"Authorization": "Bearer no"}):
        answer = running.chat(headers=headers)
        ids.append(answer.headers["x-request-id"])
        seen.append(answer.status_code)
    assert ids[2:4] == ["mine", "mine"]
    assert len({ids[0], ids[1], ids[4]}) == 3
    assert seen == [200] * 5 + [401]


def test_security_headers_are_on_every_answer(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up)
    answers = [running.chat(), running.chat(stream=True), running.get("/models"), requests.get(running.url, timeout=5)]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "server" not in answer.headers


def test_only_allowed_hosts_are_answered(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up, api={"allowed_hosts": ["gate.example", "::1"]})
    for host, status in (("gate.example", 200), ("GATE.example:81", 200), ("[::1]:9", 200), ("evil.example", 400)):
        answer = requests.get(f"{running.url}/health", headers={"host": host}, timeout=5)
        assert answer.status_code == status, host
    assert answer.json()["error"]["code"] == "host_not_allowed"


def test_without_auth_only_this_machines_own_pages_reach_it(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(up, auth={"enabled": False})
    url = f"{running.url}/generate"
    body = {"model": "bench", "prompt": "hello"}
    assert requests.post(url, json=body, timeout=10).json()["text"] == "hello"
    host = running.url.removeprefix("http://")
    own = {"origin": f"http://{host}", "x-client-name": "mine", "x-stainless-arch": "x64", "user-agent": "curl"}
    assert requests.post(url, json=body, headers=own, timeout=10).status_code == 200
    for headers in (
        {"host": "rebound.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000"},
        {"x-forwarded-for": "10.0.0.1"},
        {"forwarded": "for=10.0.0.1"},
        {"origin": f"https://{host}"},
        {"origin": host},
        {"x-forwarded-port": "443"},
        {"x-forwarded-anything": "1"},
        {"x-original-forwarded-for": "10.0.0.1"},
        {"x-original-url": "/models"},
        {"x-client-ip": "10.0.0.1"},
        {"x-cluster-client-ip": "10.0.0.1"},
        {"true-client-ip": "10.0.0.1"},
        {"cf-connecting-ip": "10.0.0.1"},
        {"cf-ray": "1"},
        {"fastly-client-ip": "10.0.0.1"},
        {"fly-client-ip": "10.0.0.1"},
        {"x-envoy-external-address": "10.0.0.1"},
        {"x-amzn-trace-id": "Root=1"},
        {"via": "1.1 proxy"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ):
        answer = requests.post(
            url, data=json.dumps(body), headers={"content-type": "application/json"} | headers, timeout=5
        )
        assert answer.status_code == 400, headers
    assert len(up.requests) == 2
    # There are no accounts to log in to, and nothing below /auth.
    assert requests.post(f"{running.url}/auth/token", json={}, timeout=5).status_code == 404
    assert requests.get(f"{running.url}/auth/users", timeout=5).status_code == 404


def test_health_ready_and_what_they_tell_to_whom(up: Upstream, upstreams: Callable) -> None:
    running = upstreams(
        up,
        llm={"providers": {"local": {"models": {"gemma-3-270m": None}}, "up0": {"kind": "openai", "base_url": up.url}}},
    )
    assert requests.get(f"{running.url}/health", timeout=5).json() == {"status": "ok"}
    assert requests.get(f"{running.url}/ready", timeout=5).json() == {"status": "ready"}
    detailed = running.get("/ready").json()
    assert detailed["serves"] == ["up0"]
    assert "no model" in detailed["cannot_serve"]["local"]
    wrong = requests.get(f"{running.url}/ready", headers={"authorization": "Bearer nonsense"}, timeout=5)
    assert wrong.status_code == 401


def test_not_ready_when_nothing_can_serve(gateway: Callable) -> None:
    running = gateway(
        llm={
            "providers": {
                "local": {"models": {"gemma-3-270m": None}},
                "down": {"kind": "openai", "base_url": "http://127.0.0.1:9"},
            }
        }
    )
    answer = running.get("/ready")
    assert answer.status_code == 503
    assert answer.json()["cannot_serve"]["down"] == "no connection to 127.0.0.1:9"


def test_the_access_log_is_one_line_of_json_without_secrets(up: Upstream, upstreams: Callable) -> None:
    # Not capsys: its reading loses what is written meanwhile by another thread.
    with contextlib.redirect_stderr(io.StringIO()) as log:
        running = upstreams(up, api={"access_log": True})
        running.chat(headers={"x-request-id": "the-one"})
        requests.get(f"{running.url}/models?api_key=sk-in-the-query", timeout=5)
        deadline = time.monotonic() + 20
        while '"path":"/models"' not in log.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        err = log.getvalue()
    lines = [json.loads(line) for line in err.splitlines()]
    chat = next(line for line in lines if line["request_id"] == "the-one")
    assert chat | {"time": 0, "ms": 0, "credential": ""} == {
        "time": 0,
        "request_id": "the-one",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "ms": 0,
        "user": "root",
        "tenant": "default",
        "credential": "",
        "model": "bench",
        "deployment": "up0/theirs-0",
    }
    assert chat["credential"].startswith("key:")
    assert running.key not in err
    assert "sk-in-the-query" not in err
    assert "sk-upstream" not in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_lines_for_people(up: Upstream, upstreams: Callable) -> None:
    with contextlib.redirect_stderr(Terminal()) as log:
        running = upstreams(up, api={"access_log": True})
        running.chat()
        requests.get(f"{running.url}/no\x1b[2Jthing", timeout=5)
        deadline = time.monotonic() + 20
        while log.getvalue().count("\n") < 2:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    chat, missing = log.getvalue().splitlines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d  200  +\d+ ms  POST /v1/chat/completions  root  model=bench deployment=up0/theirs-0", chat
    )
    assert re.fullmatch(r"\d\d:\d\d:\d\d  404  +\d+ ms  GET /no\ufffd\[2Jthing(  error=\w+)?", missing)


def test_a_line_for_people_names_the_request_that_failed_and_lines_that_were_dropped() -> None:
    line = {"time": 0.0, "request_id": "r-1", "method": "GET", "path": "/x", "status": 502, "ms": 1.25, "error": "a"}
    assert readable({**line, "user": "张伟"}).endswith("  502       1 ms  GET /x  张伟  request_id=r-1 error=a\n")
    dropped = readable({"time": 0.0, "event": "access_log_dropped", "lines": 3})
    assert dropped.endswith("  event=access_log_dropped lines=3\n")


def test_the_log_says_why_an_upstream_could_not_be_read(up: Upstream, upstreams: Callable) -> None:
    up.reply({}, headers={"content-encoding": "br"})
    with contextlib.redirect_stderr(io.StringIO()) as log:
        running = upstreams(up, api={"access_log": True}, provider={"retries": 0})
        assert running.chat().status_code == 502
        deadline = time.monotonic() + 20
        while "/v1/chat/completions" not in log.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        line = json.loads(log.getvalue().splitlines()[0])
    assert line["error"] == "upstream_encoding"
    assert line["reason"] == "the provider 'up0': its answer is compressed with 'br', which was not asked for"


def test_a_line_of_the_log_is_short_whatever_a_client_sends_as_a_name(gateway: Callable) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as log:
        running = gateway(api={"access_log": True})
        long = "x" * 2_000_000
        assert running.post("/search", {"query": "a", "collection": long}).status_code in (400, 404)
        answer = running.post("/v1/rerank", {"model": "m", "query": "a", "documents": ["b"], "collection": long})
        assert answer.status_code in (400, 404)
        assert running.get("/" + "y" * 30_000).status_code == 404
        deadline = time.monotonic() + 20
        while '"path":"/yyy' not in log.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        lines = log.getvalue().splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) < 2000
    assert [json.loads(line)["status"] for line in lines][-1] == 404


@pytest.mark.slow
def test_the_heartbeats_of_workers_are_logged_only_when_they_fail(gateway: Callable) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as log:
        running = gateway(api={"access_log": True}, queue={"embedded_worker": False})
        assert running.post("/worker/hello", {"worker": "w", "concurrency": 1}).status_code == 200
        assert running.post("/worker/hello", {"worker": ""}).status_code == 400
        assert running.get("/models").status_code == 200
        deadline = time.monotonic() + 20
        while '"path":"/models"' not in log.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [(line["path"], line["status"]) for line in lines] == [("/worker/hello", 400), ("/models", 200)]


def test_a_log_that_is_not_read_delays_no_request() -> None:
    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    log = AccessLog(Stuck())
    log.start()
    for number in range(25_000):
        log.write({"n": number})
    log.stop()
    output = io.StringIO()
    log = AccessLog(output)
    for number in range(10_005):
        log.write({"n": number})
    log.start()
    log.stop()
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert len(lines) == 10_001
    assert lines[-1]["lines"] == 5


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/completions", "/v1/completions"),
        ("/embeddings", "/v1/embeddings"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/api/v1/embeddings", "/v1/embeddings"),
        ("/v1/generate", "/generate"),
        ("/v1/search", "/search"),
        ("/v1/api/chat", "/v2/chat"),
        ("/api/kv/a/b", "/kv/a/b"),
    ],
)
def test_a_path_with_a_wrong_beginning_is_told_the_right_one(
    up: Upstream, upstreams: Callable, path: str, meant: str
) -> None:
    answer = requests.post(f"{upstreams(up).url}{path}", json={}, timeout=10)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["code"] == "no_such_route"
    assert error["message"].startswith(f"there is no route {path}: did you mean {meant}?")
